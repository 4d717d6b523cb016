"""Every byte of token shards against its checksum: `python -m data verify`.

In: folders or URLs. Out: where the damage is: shard, block and bytes. Always: reads each shard once, past any
cache, in parallel processes; goes on after damage, so that one call finds all of it.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.ranges import MOST_WORKERS, check_range
from data.config import CacheConfig
from data.document_index import check_documents
from data.manifest import documents_file
from data.shards import Damage
from data.source import TokenSource, folders_of, open_source, tokenizer_of
from data.workers import Report, Workers

CHUNK_PAGES = 16


@dataclass(frozen=True)
class VerifyConfig:
    """Which shards are verified, and how."""

    input: list[str]
    """folders or URLs of token shards, or folders with train/ and validation/ that `prepare` wrote"""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """processes"""
    json: bool = False
    """print JSON"""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        check_range(self, "--", "workers", low=1, high=MOST_WORKERS)
        if not self.input or not all(entry.strip() for entry in self.input):
            raise InputError("--input: name folders or URLs of token shards; an empty name is none")


@dataclass(frozen=True)
class Verdict:
    """What was found in one folder."""

    path: str
    dataset_id: str
    shards: int
    bytes: int
    problems: list[str]
    """files that are missing, or of another size or content than the manifest says"""
    damages: list[Damage]

    @property
    def is_whole(self) -> bool:
        """Nothing wrong was found."""
        return not self.problems and not self.damages

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"whole": self.is_whole}


def verify(config: VerifyConfig) -> list[Verdict]:
    """Reads every byte of the shards and compares it with its checksum.

    Raises:
        InputError: there is no readable manifest; it is found before anything else is read.
    """
    sources = [open_source(path, config.cache) for entry in config.input for path in folders_of(entry)]
    with Workers(config.workers) as workers:
        return [_verify_source(source, config.cache, workers) for source in sources]


def _verify_source(source: TokenSource, cache: CacheConfig, workers: Workers) -> Verdict:
    manifest = source.manifest
    problems = _tokenizer_problems(source)
    size = manifest.tokens * manifest.item_bytes
    tasks = [(source.path, cache, index) for index in range(len(manifest.shards))]
    results = workers.run(f"verifying {source.name}", size, verify_shard, tasks)
    problems += [problem for found, _ in results for problem in found]
    damages = [damage for _, found in results for damage in found]
    return Verdict(source.name, source.id, len(manifest.shards), size, problems, damages)


def verify_shard(path: str, cache: CacheConfig, index: int, report: Report) -> tuple[list[str], list[Damage]]:
    """What is wrong with the files of a shard, and its damaged pages."""
    source = open_source(path, cache)
    manifest, shard = source.manifest, source.manifest.shards[index]
    size = shard.tokens * manifest.item_bytes
    problems: list[str] = []
    damages: list[Damage] = []
    starts = np.empty(0, np.int64)
    try:
        starts = check_documents(source, index)
    except InputError as error:
        problems.append(str(error))
    try:
        source.reader.check_files([index])
        for begin in range(0, size, CHUNK_PAGES * manifest.page_bytes):
            length = min(CHUNK_PAGES * manifest.page_bytes, size - begin)
            content = source.storage.read_origin(shard.file, shard.header_bytes + begin, length)
            found = source.reader.damages(index, begin, content)
            damages += found
            tokens = np.frombuffer(content, np.dtype(manifest.dtype).newbyteorder("<"))
            if not found and not _end_before(starts, tokens, begin // manifest.item_bytes, manifest.eod_id):
                name = f"{source.storage.location}/{documents_file(index)}"
                problems.append(f"{name}: damaged: a document begins where none ends")
                starts = starts[:0]
            report(length, length // manifest.item_bytes)
    except InputError as error:
        problems.append(str(error))
    return problems, damages


def _end_before(starts: NDArray[np.int64], tokens: NDArray[np.integer], first: int, eod_id: int) -> bool:
    """Whether an end of document stands before each of ``starts``, as far as ``tokens``, from ``first`` on, reach."""
    low, high = np.searchsorted(starts, [first, first + len(tokens)], side="right")
    return bool(np.all(tokens[starts[low:high] - 1 - first] == eod_id))


def _tokenizer_problems(source: TokenSource) -> list[str]:
    try:
        tokenizer_of(source)
    except InputError as error:
        return [str(error)]
    return []


def print_verdicts(verdicts: list[Verdict]) -> None:
    """One line per problem, and one per folder."""
    for verdict in verdicts:
        for line in [*verdict.problems, *map(str, verdict.damages)]:
            print(line)
        state = "whole" if verdict.is_whole else f"{len(verdict.problems) + len(verdict.damages)} problem(s)"
        print(f"{verdict.path}: {state}; {verdict.shards} shard(s), {verdict.bytes:,} bytes")
