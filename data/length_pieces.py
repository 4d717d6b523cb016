"""The documents of one class of lengths, out of pieces of token shards.

In: an opened dataset, pieces of its shards, the bounds between classes. Out: tokens of each class in a piece; shards of
one class. Always: a document belongs to the piece in which it begins; memory is bounded by a piece's list of documents
and the shard that is written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import CacheConfig
from data.document_index import document_records
from data.manifest import PAGE_BYTES, Shard
from data.shards import DOCUMENT_RECORD, write_shard
from data.source import TokenSource, open_source
from data.workers import Report

PIECE_TOKENS = 1 << 26
"""tokens of a shard that one task looks at"""
WITH_TOKENS = np.dtype([("start", "<i8"), ("tokens", "<i8"), ("digest_high", "<u8"), ("digest_low", "<u8")])
DIGESTS = ("digest_high", "digest_low")


@dataclass(frozen=True)
class Piece:
    """The documents that begin in some tokens of a shard."""

    shard: int
    first: int
    last: int
    """exclusive"""


@dataclass(frozen=True)
class Written:
    """One finished shard of a class, and how often each id occurs in it, [vocab_size]."""

    shard: Shard
    token_counts: NDArray[np.int64]


def pieces_of(source: TokenSource, tokens: int | None) -> Iterator[Piece]:
    """The first ``tokens`` of the dataset, or all, in pieces."""
    left = source.manifest.tokens if tokens is None else tokens
    for index, shard in enumerate(source.manifest.shards):
        wanted = min(left, shard.tokens)
        for first in range(0, wanted, PIECE_TOKENS):
            yield Piece(index, first, min(first + PIECE_TOKENS, wanted))
        left -= wanted


def count_piece(
    path: str, cache: CacheConfig, piece: Piece, bounds: tuple[int, ...], report: Report
) -> NDArray[np.int64]:
    """The tokens of each class in ``piece``."""
    records = _documents(open_source(path, cache), piece)
    number = np.searchsorted(bounds, records["tokens"], side="right")
    report(piece.last - piece.first, 0)
    return np.bincount(number, records["tokens"], len(bounds) + 1).astype(np.int64)


def _documents(source: TokenSource, piece: Piece) -> NDArray[np.void]:
    """Record, and tokens with the EOD, of each document that begins in ``piece``."""
    found, size = document_records(source, piece.shard), source.manifest.shards[piece.shard].tokens
    starts = found["start"].astype(np.int64)
    first, last = np.searchsorted(starts, [piece.first, piece.last]).tolist()
    documents = np.zeros(last - first, WITH_TOKENS)
    for name in DIGESTS:
        documents[name] = found[name][first:last]
    documents["start"] = starts[first:last]
    documents["tokens"] = np.append(starts, size)[first + 1 : last + 1] - starts[first:last]
    if last == len(found) and last > first and source.reader.read_shard(piece.shard, size - 1, 1) != _eod(source):
        documents["tokens"][-1] += 1  # an adopted file may end without an EOD; here the document gets one
    return documents


def _eod(source: TokenSource) -> NDArray[Any]:
    return np.array([source.manifest.eod_id], source.manifest.dtype)


def write_class(
    path: str,
    cache: CacheConfig,
    pieces: Sequence[Piece],
    bounds: tuple[int, ...],
    number: int,
    index: int,
    folder: Path,
    report: Report,
) -> Written:
    """Writes shard ``index`` of class ``number``: its documents in ``pieces``."""
    source = open_source(path, cache)
    contents: list[NDArray[Any]] = []
    chosen: list[NDArray[np.void]] = []
    for piece in pieces:
        documents = _documents(source, piece)
        documents = documents[np.searchsorted(bounds, documents["tokens"], side="right") == number]
        contents += _texts(source, piece.shard, documents)
        chosen.append(documents)
    tokens, whole = np.concatenate(contents), np.concatenate(chosen)
    records = np.zeros(len(whole), DOCUMENT_RECORD)
    for name in DIGESTS:
        records[name] = whole[name]
    records["start"] = np.cumsum(whole["tokens"]) - whole["tokens"]
    report(tokens.nbytes, tokens.size)
    shard = write_shard(folder, index, tokens, records, PAGE_BYTES)
    return Written(shard, np.bincount(tokens, minlength=source.manifest.vocab_size))


def _texts(source: TokenSource, shard: int, documents: NDArray[np.void]) -> Iterator[NDArray[Any]]:
    """The tokens of ``documents``; neighbours are read together."""
    starts, size = documents["start"], source.manifest.shards[shard].tokens
    ends = starts + documents["tokens"]
    for group in np.split(np.arange(len(starts)), np.flatnonzero(starts[1:] != ends[:-1]) + 1):
        first, last = int(starts[group[0]]), int(ends[group[-1]])
        yield source.reader.read_shard(shard, first, min(last, size) - first)
    if ends[-1] > size:
        yield _eod(source)
