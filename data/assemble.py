"""The second half of preparation: the sorted parts become shuffled shards without duplicates.

In: finished parts. Out: one shard per range of the document order, and the manifest. Always: the result depends
on the documents and the settings alone, not on files, workers or order; a shard is built in memory by itself.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from data.manifest import PAGE_BYTES, Shard
from data.parts import INDEX_RECORD, Part
from data.shards import DOCUMENT_RECORD, write_shard
from data.workers import Report


@dataclass(frozen=True)
class ShardPlan:
    """How one split is cut into shards: shard i takes the i-th of ``shards`` equal ranges of the order."""

    split: str
    shards: int
    dtype: str
    vocab_size: int


@dataclass(frozen=True)
class Assembled:
    """One finished shard and what is added up over all."""

    shard: Shard
    text_bytes: int
    duplicates: int
    token_counts: NDArray[np.int64]
    """how often each id occurs, [vocab_size]"""


def plan_shards(parts: list[Part], split: str, dtype: str, vocab_size: int, shard_bytes: int) -> ShardPlan:
    """Chooses the number of shards of about ``shard_bytes``."""
    size = sum(part.tokens[split] for part in parts) * np.dtype(dtype).itemsize
    return ShardPlan(split, max(1, -(-size // shard_bytes)), dtype, vocab_size)


def assemble_shard(parts: list[Part], plan: ShardPlan, number: int, folder: Path, report: Report) -> Assembled:
    """Merges range ``number`` of all parts, leaves out copies, and writes the shard."""
    slices = [found for part in parts for found in _slices(part, plan, number)]
    records = np.concatenate([records for records, _ in slices]) if slices else np.empty(0, INDEX_RECORD)
    tokens = np.concatenate([tokens for _, tokens in slices]) if slices else np.empty(0, plan.dtype)
    sorting = np.lexsort((records["low"], records["high"], records["order"]))
    ends = np.cumsum(records["tokens"], dtype=np.int64)
    starts = (ends - records["tokens"])[sorting]
    records = records[sorting]
    first_of_kind = np.ones(len(records), bool)
    first_of_kind[1:] = (records["high"][1:] != records["high"][:-1]) | (records["low"][1:] != records["low"][:-1])
    duplicates = len(records) - int(first_of_kind.sum())
    records, starts = records[first_of_kind], starts[first_of_kind]
    lengths = records["tokens"].astype(np.int64)
    pieces = [tokens[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    merged = np.concatenate(pieces) if pieces else tokens[:0]
    documents = np.zeros(len(records), DOCUMENT_RECORD)
    documents["start"] = np.cumsum(lengths) - lengths
    documents["digest_high"], documents["digest_low"] = records["high"], records["low"]
    shard = write_shard(folder, number, merged, documents, PAGE_BYTES)
    counts = np.bincount(merged, minlength=plan.vocab_size) if merged.size else np.zeros(plan.vocab_size, np.int64)
    report(int(merged.nbytes), int(merged.size))
    return Assembled(shard, int(records["bytes"].sum(dtype=np.int64)), duplicates, counts)


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy in nats of the distribution that ``counts`` describe."""
    shares = counts[counts > 0] / max(1, int(counts.sum()))
    return float(-(shares * np.log(shares)).sum())


def _slices(part: Part, plan: ShardPlan, number: int) -> list[tuple[NDArray[np.void], NDArray[Any]]]:
    """The records and tokens of ``part``'s runs that fall into range ``number``."""
    low = -(-number * 2**64 // plan.shards)
    high = -(-(number + 1) * 2**64 // plan.shards) - 1
    index = part.index()
    found = []
    for run in part.runs:
        if run.split != plan.split:
            continue
        order = index["order"][run.first : run.last]
        begin = np.searchsorted(order, np.uint64(low))
        end = np.searchsorted(order, np.uint64(high), side="right")
        records = np.array(index[run.first + begin : run.first + end])
        if not len(records):
            continue
        start, count = int(records["start"][0]), int(records["tokens"].sum(dtype=np.int64))
        item = np.dtype(plan.dtype).itemsize
        tokens = np.fromfile(part.tokens_file, plan.dtype, count, offset=start * item)
        if tokens.size != count:
            raise InputError(f"{part.tokens_file}: truncated; remove the folder {part.folder} and prepare again")
        found.append((records, tokens))
    return found
