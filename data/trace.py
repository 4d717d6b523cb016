"""Which steps saw, or will see, a piece of the data: `python -m data trace`.

In: a run's config and a token, a document or a snippet of text. Out: samples, steps, ranks and micro-batches, past
and future. Always: computed from the order's inverse; nothing was recorded while training.
"""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from common.errors import InputError, nearest
from common.ranges import MOST_PROCESSES, MOST_STEPS, MOST_TOKENS, MOST_WORKERS, check_range
from data.dealing import Dealing
from data.document_index import document_records
from data.run_order import RunOrder
from data.search import find_text
from data.source import TokenSource
from data.stream import TokenStream, open_stream


@dataclass(frozen=True)
class TraceConfig(RunOrder):
    """A run, and what to look for in it."""

    source: str | None = None
    """the source that it stands in, as data.train names it (default: the only one)"""
    token: int | None = None
    """position in the source's stream of tokens"""
    document: str | None = None
    """number of the document in the source, or its digest in hexadecimal"""
    text: str | None = None
    """a snippet of a few words"""
    done: int = 0
    """steps that the run has taken; what they saw is told as seen, the rest as still to come"""
    data_size: int = 1
    """data-parallel ranks"""
    most: int = 10
    """matches of a text that are followed up"""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """processes that look for a text"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "--", "token", low=0, high=MOST_TOKENS)
        check_range(self, "--", "done", low=0, high=MOST_STEPS)
        check_range(self, "--", "data_size", low=1, high=MOST_PROCESSES)
        check_range(self, "--", "most", low=1, high=MOST_STEPS)
        check_range(self, "--", "workers", low=1, high=MOST_WORKERS)
        if sum(value is not None for value in (self.token, self.document, self.text)) != 1:
            raise InputError("trace: name one of --token, --document and --text")


@dataclass(frozen=True)
class Sighting:
    """One time that a sample with the tokens comes up."""

    first_token: int
    last_token: int
    source: str
    sample: int
    """sample of the source, at the stage's sequence length"""
    stage: int
    epoch: int
    global_sample: int
    when: str
    """past, future or skipped"""
    step: int | None
    data_rank: int | None
    micro_batch: int | None


def trace(config: TraceConfig) -> list[Sighting]:
    """Every sighting up to the run's last step, in the order of training."""
    stream = open_stream(config.data, config.seed)
    number, source = _source_of(config, stream)
    sightings = []
    for first, last in _spans(config, source):
        sightings += _sightings(config, stream, number, first, last)
    return sorted(sightings, key=lambda sighting: (sighting.global_sample, sighting.first_token))


def _source_of(config: TraceConfig, stream: TokenStream) -> tuple[int, TokenSource]:
    paths = [source.path for source in stream.sources]
    path = config.source or (paths[0] if len(paths) == 1 else None)
    if path is None:
        raise InputError(f"--source: name one of {', '.join(paths)}")
    if path not in paths:
        raise InputError(f"--source {path}: not a source of this run{nearest(path, paths)}")
    return paths.index(path), stream.sources[paths.index(path)]


def _spans(config: TraceConfig, source: TokenSource) -> list[tuple[int, int]]:
    """The ranges of tokens to follow, (first, last) inclusive."""
    tokens = source.manifest.tokens
    if config.token is not None:
        if not 0 <= config.token < tokens:
            raise InputError(f"--token {config.token}: {source.path} has the tokens 0 to {tokens - 1}")
        return [(config.token, config.token)]
    if config.document is not None:
        return [_document_span(config.document, source)]
    spans = find_text(source, config.text or "", config.most, config.data.cache, config.workers)
    if not spans:
        raise InputError(f"--text {config.text!r}: does not stand in {source.path}")
    return spans


def _document_span(name: str, source: TokenSource) -> tuple[int, int]:
    """The tokens of a document, its EOD included."""
    before = first_token = 0
    for index, shard in enumerate(source.manifest.shards):
        records = document_records(source, index)
        place = _place_among(records, name, before)
        if place is not None:
            last = int(records["start"][place + 1]) if place + 1 < len(records) else shard.tokens
            return first_token + int(records["start"][place]), first_token + last - 1
        before, first_token = before + shard.documents, first_token + shard.tokens
    raise InputError(f"--document {name}: {source.path} has the documents 0 to {before - 1}, and none with that digest")


def _place_among(records: np.ndarray, name: str, before: int) -> int | None:
    if name.isdecimal() and len(name) < 32:
        place = int(name) - before
        return place if 0 <= place < len(records) else None
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        raise InputError(f"--document {name}: neither a number nor a digest in hexadecimal") from None
    high, low = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    found = np.flatnonzero((records["digest_high"] == high) & (records["digest_low"] == low))
    return int(found[0]) if found.size else None


def _sightings(config: TraceConfig, stream: TokenStream, number: int, first: int, last: int) -> list[Sighting]:
    schedule = config.batch.schedule
    dealing = Dealing(stream, schedule, config.batch.micro_size, config.data_size)
    limit = stream.skip.passed(schedule.first_sample(config.train.steps))
    done = schedule.first_sample(config.done)
    found = []
    for index, stage in enumerate(stream.order.stages):
        length = stage.plan.sequence_length
        samples = stream.sources[number].manifest.num_samples(length)
        # A token at the border of two samples is the last label of one and the first input of the other.
        for sample in range(max(0, -(-first // length) - 1), min(last // length, samples - 1) + 1):
            for seen in stream.order.occurrences(index, number, sample, limit):
                trained = stream.skip.trained_of(seen.number)
                step, rank, micro_batch = (None, None, None) if trained is None else dealing.place_of(trained)
                when = "skipped" if trained is None else "past" if trained < done else "future"
                path = stream.sources[number].name
                found.append(
                    Sighting(first, last, path, sample, index, seen.epoch, seen.number, when, step, rank, micro_batch)
                )
    return found


def as_dicts(sightings: list[Sighting]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(sighting) for sighting in sightings]


def print_sightings(config: TraceConfig, sightings: list[Sighting]) -> None:
    """One line per sighting."""
    for seen in sightings:
        span = (
            f"token {seen.first_token:,}"
            if seen.first_token == seen.last_token
            else (f"tokens {seen.first_token:,} to {seen.last_token:,}")
        )
        where = (
            f"step {seen.step:,}, data-parallel rank {seen.data_rank}, micro-batch {seen.micro_batch} ({seen.when})"
            if seen.step is not None
            else "skipped"
        )
        print(f"{span} of {seen.source}: epoch {seen.epoch}, global sample {seen.global_sample:,}: {where}")
    if not sightings:
        print(f"not seen in {config.train.steps:,} steps")
