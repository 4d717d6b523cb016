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
from common.urls import without_credentials
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
    """the source that it stands in, as data.train names it; of what is sorted by length, also the folder of a class
    (default: the only one; for a text or a digest all)"""
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


class NotThere(InputError):
    """What is looked for stands in none of the sources that were searched."""


def trace(config: TraceConfig) -> list[Sighting]:
    """Every sighting up to the run's last step, in the order of training.

    Raises:
        InputError: what is looked for is not there, or it is not clear in which source it stands.
    """
    stream = open_stream(config.data, config.seed)
    sightings, missing = [], []
    numbers = _sources_of(config, stream)
    for number in numbers:
        try:
            spans = _spans(config, stream.sources[number])
        except NotThere as error:
            missing.append(error)
            continue
        for first, last in spans:
            sightings += _sightings(config, stream, number, first, last)
    if len(missing) == len(numbers):
        raise missing[0]
    return sorted(sightings, key=lambda sighting: (sighting.global_sample, sighting.first_token))


def _sources_of(config: TraceConfig, stream: TokenStream) -> list[int]:
    """The sources that are searched: the one named, all classes of lengths in it, or, for a text or digest, all."""
    paths = [source.path for source in stream.sources]
    wanted = without_credentials(config.source or "").rstrip("/")
    found = [
        number
        for number, source in enumerate(stream.sources)
        if config.source in (None, source.path) or f"{source.name}/".startswith(f"{wanted}/")
    ]
    if not found:
        raise InputError(f"--source {config.source}: not a source of this run{nearest(config.source or '', paths)}")
    by_place = config.token is not None or (config.document is not None and _is_number(config.document))
    if by_place and len(found) > 1:
        raise InputError(f"--source: name one of {', '.join(paths[number] for number in found)}")
    return found


def _spans(config: TraceConfig, source: TokenSource) -> list[tuple[int, int]]:
    """The ranges of tokens to follow, (first, last) inclusive."""
    tokens = source.manifest.tokens
    if config.token is not None:
        if not 0 <= config.token < tokens:
            raise NotThere(f"--token {config.token}: {source.path} has the tokens 0 to {tokens - 1}")
        return [(config.token, config.token)]
    if config.document is not None:
        return [_document_span(config.document, source)]
    spans = find_text(source, config.text or "", config.most, config.data.cache, config.workers)
    if not spans:
        raise NotThere(f"--text {config.text!r}: does not stand in {source.path}")
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
    raise NotThere(f"--document {name}: {source.path} has the documents 0 to {before - 1}, and none with that digest")


def _is_number(document: str) -> bool:
    """Whether a document is named by its number; a digest has 32 digits."""
    return document.isdecimal() and len(document) < 32


def _place_among(records: np.ndarray, name: str, before: int) -> int | None:
    if _is_number(name):
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
