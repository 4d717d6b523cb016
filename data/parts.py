"""The first half of preparation: one unit of input becomes one part, tokenized and sorted by document digest.

In: a unit and a tokenizer. Out: ``ID.tokens``, ``ID.index`` and, last, ``ID.json``, whose presence says that the
part is whole. Always: a part depends on its unit and the settings alone; memory is bounded by ``RUN_TOKENS``
and the longest document.

A document's place in the shuffled corpus is a seeded hash of its digest, so the sorted runs of all parts can be
merged range by range: one sort gives the shuffle, brings equal documents together, and does not depend on
which files they came from.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import atomic_file, read_json, sha256_of_json, write_json
from data.corpus import SKIPPED, OnDamage, Reading, Unit, read_documents
from data.manifest import SPLITS
from data.permute import make_key, mix
from data.tokenizer import Tokenizer
from data.workers import Report

RUN_TOKENS = 1 << 26
PART_FILES = ("tokens", "index")
INDEX_RECORD = np.dtype(
    [("order", "<u8"), ("high", "<u8"), ("low", "<u8"), ("start", "<u8"), ("tokens", "<u4"), ("bytes", "<u4")]
)
"""One document of a part: its place in the shuffled corpus, its text's digest, its tokens in the part's file
(EOD included), and its UTF-8 bytes."""


@dataclass(frozen=True)
class PartSettings:
    """What the tokens of a part depend on, beside the unit."""

    text_field: str
    dtype: str
    seed: int
    held_out: float
    """share of the documents that goes to validation"""


@dataclass(frozen=True)
class Run:
    """Documents of one split that lie sorted in a part: index records ``first`` to ``last`` (exclusive)."""

    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Part:
    """A finished part."""

    folder: Path
    id: str
    runs: list[Run]
    tokens: dict[str, int]
    """tokens of each split, copies of a document included"""
    counts: Counter[str]

    def index(self) -> NDArray[np.void]:
        """The records of all documents, mapped into memory."""
        path = self.folder / f"{self.id}.index"
        if path.stat().st_size == 0:
            return np.empty(0, INDEX_RECORD)
        return np.memmap(path, INDEX_RECORD, mode="r")

    @property
    def tokens_file(self) -> Path:
        """The tokens, run after run."""
        return self.folder / f"{self.id}.tokens"


def digest_of(text: bytes) -> tuple[int, int]:
    """A document's 128-bit digest as two words."""
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def is_held_out(high: Any, share: float) -> Any:
    """Whether documents with these high words belong to validation: the seed and the other documents have no say."""
    return high < np.uint64(share * (2**64 - 2**11))


def order_of(low: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A document's place in the corpus shuffled by ``seed``, from the low word of its digest."""
    return mix(low ^ np.uint64(make_key("document order", seed)))


def part_id(unit: Unit, settings: PartSettings, tokenizer: Tokenizer) -> str:
    """Names the part after all that it depends on."""
    return sha256_of_json([unit.kind, unit.identity, unit.part, vars(settings), tokenizer.fingerprint])[:24]


def find_part(folder: Path, identity: str, on_damage: OnDamage) -> Part | None:
    """The finished part, or None where there is none yet, or none that is whole.

    One that skipped files serves only who skips them, too.
    """
    commit = folder / f"{identity}.json"
    if not commit.exists():
        return None
    try:
        values = read_json(commit, "part")
        runs = [Run(**run) for run in values["runs"]]
        part = Part(folder, identity, runs, values["tokens"], Counter(values["counts"]))
        is_whole = all((folder / f"{identity}.{kind}").stat().st_size == values["bytes"][kind] for kind in PART_FILES)
    except (InputError, FileNotFoundError, KeyError, TypeError, AttributeError):
        return None
    skipped = any(reason.startswith(SKIPPED) for reason in part.counts)
    return part if is_whole and not (skipped and on_damage == "refuse") else None


def write_part(
    unit: Unit, settings: PartSettings, on_damage: OnDamage, tokenizer: Tokenizer, folder: Path, report: Report
) -> Part:
    """Reads, tokenizes and sorts ``unit``; replaces any unfinished part of it."""
    identity = part_id(unit, settings, tokenizer)
    counts: Counter[str] = Counter()
    tokens = dict.fromkeys(SPLITS, 0)
    runs: list[Run] = []
    first = start = 0
    with atomic_file(folder / f"{identity}.tokens") as data, atomic_file(folder / f"{identity}.index") as index:
        for documents in _batches(unit, settings, on_damage, tokenizer, counts, report):
            for split in SPLITS:
                records, content = _sorted_run(documents, settings, split, start)
                if not len(records):
                    continue
                data.write(content)
                index.write(records.tobytes())
                runs.append(Run(split, first, first + len(records)))
                tokens[split] += int(records["tokens"].sum())
                first += len(records)
                start += int(records["tokens"].sum())
    sizes = {kind: (folder / f"{identity}.{kind}").stat().st_size for kind in PART_FILES}
    values = {"runs": [vars(run) for run in runs], "tokens": tokens, "counts": dict(counts), "bytes": sizes}
    write_json(folder / f"{identity}.json", values)
    return Part(folder, identity, runs, tokens, counts)


@dataclass
class _Documents:
    """Tokenized documents in the order in which they were read."""

    records: list[tuple[int, int, int, int, int]]
    """high, low, first token in ``ids``, tokens, bytes"""
    ids: list[NDArray[np.unsignedinteger]]


def _batches(
    unit: Unit,
    settings: PartSettings,
    on_damage: OnDamage,
    tokenizer: Tokenizer,
    counts: Counter[str],
    report: Report,
) -> Iterator[_Documents]:
    documents, pending, reported = _Documents([], []), 0, 0
    eod = np.array([tokenizer.eod_id], settings.dtype)
    unreported_bytes = unreported_tokens = 0
    for text in read_documents(unit, Reading(settings.text_field, on_damage), counts):
        counts["documents read"] += 1
        if not text:
            counts["empty"] += 1
            continue
        content = text.encode()
        ids, inexact = tokenizer.encode_document(text)
        counts["kept, but cut where the tokenizer would not have"] += inexact
        high, low = digest_of(content)
        documents.records.append((high, low, pending, len(ids) + 1, len(content)))
        documents.ids += [ids.astype(settings.dtype), eod]
        pending += len(ids) + 1
        unreported_bytes += len(content)
        unreported_tokens += len(ids) + 1
        if unreported_tokens > 1 << 16:
            report(unreported_bytes, unreported_tokens)
            reported += unreported_bytes
            unreported_bytes = unreported_tokens = 0
        if pending >= RUN_TOKENS:
            yield documents
            documents, pending = _Documents([], []), 0
    if documents.records:
        yield documents
    report(max(unreported_bytes, unit.size - reported), unreported_tokens)


def _sorted_run(
    documents: _Documents, settings: PartSettings, split: str, start: int
) -> tuple[NDArray[np.void], bytes]:
    """The records and tokens of one split in the corpus's order; ``start`` is the run's first token in the part."""
    table = np.array(documents.records, np.uint64).reshape(-1, 5)
    held_out = is_held_out(table[:, 0], settings.held_out)
    chosen = np.flatnonzero(held_out if split == "validation" else ~held_out)
    order = order_of(table[chosen, 1], settings.seed)
    sorting = np.lexsort((table[chosen, 0], order))
    chosen, order = chosen[sorting], order[sorting]
    records = np.zeros(len(chosen), INDEX_RECORD)
    records["order"] = order
    for column, name in ((0, "high"), (1, "low"), (3, "tokens"), (4, "bytes")):
        records[name] = table[chosen, column]
    ends = np.cumsum(records["tokens"], dtype=np.uint64)
    records["start"] = ends - records["tokens"] + np.uint64(start)
    arrays = [documents.ids[place] for document in chosen for place in (2 * document, 2 * document + 1)]
    return records, np.concatenate(arrays).tobytes() if arrays else b""
