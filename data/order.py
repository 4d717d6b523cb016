"""The global order of samples: which sample of which source is number g, and the inverse.

In: the sources' sizes, the stages, a seed, global sample numbers. Out: stage, source, epoch and sample of each.
Always: a pure function with no table over samples; each epoch of a source holds every sample once; a source's
epochs go on from stage to stage, and a new sequence length begins a new epoch.

Numbers here count every sample of the order, those on the skip list included (see data/skip.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from data.mixture import LARGEST_SLOT, Mixture
from data.permute import IntArray, make_key
from data.shuffle import Epoch

ALGORITHM = 1
"""Raised whenever the same config and seed would give another order."""


@dataclass(frozen=True)
class StageSource:
    """A source as one stage sees it."""

    source: int
    """index into the run's list of sources"""
    weight: float
    samples: int
    """samples of one epoch at the stage's sequence length"""
    chunk: int
    """neighbouring samples that share one block of a remote store"""


@dataclass(frozen=True)
class StagePlan:
    """A stretch of the order with one mixture and one sequence length."""

    from_tokens: int
    sequence_length: int
    sources: tuple[StageSource, ...]


@dataclass(frozen=True)
class Places:
    """Where samples lie; all arrays have the shape of the numbers that were asked for."""

    stage: IntArray
    source: IntArray
    """index into the run's list of sources"""
    epoch: IntArray
    """pass over the source, counted from 0"""
    sample: IntArray
    """tokens sample * T to sample * T + T of the source's stream"""


@dataclass(frozen=True)
class Occurrence:
    """One time that a sample of a source comes up in the order."""

    number: int
    stage: int
    epoch: int


@dataclass(frozen=True)
class _Stage:
    """A StagePlan in its place: its numbers, its blend, and what its sources have served before it, in samples."""

    plan: StagePlan
    first: int
    last: int
    """exclusive"""
    mixture: Mixture
    sources: IntArray
    samples: IntArray
    chunks: IntArray
    served_before: IntArray

    def chunk_of(self, source: int) -> int:
        """Neighbouring samples of a source that share a block."""
        return int(self.chunks[self.sources == source][0])

    def number_of(self, local: int, ordinal: int) -> int:
        """The global sample in which the stage's source number ``local`` serves its ``ordinal``-th sample."""
        return self.first + self.mixture.slot_of(local, ordinal)


class GlobalOrder:
    """The order that ``seed``, the sources' ids and the stages define.

    Args:
        ids: one id per source of the run; it enters the keys, so that moving files does not change the order.
        plans: the stages; the first begins at 0 tokens.
        window, by_block: see data/shuffle.py.

    Raises:
        InputError: a stage would end before its first sample.
    """

    def __init__(self, ids: list[str], plans: list[StagePlan], seed: int, window: int, by_block: bool = False) -> None:
        self._ids, self._seed, self._window, self._by_block = ids, seed, window, by_block and window > 0
        self._key = lru_cache(maxsize=1 << 16)(self._make_key)
        self.stages = list(_place_stages(plans, len(ids)))
        self._firsts = np.array([stage.first for stage in self.stages], np.int64)

    def stage_of(self, number: IntArray) -> IntArray:
        """The stage that each global sample belongs to."""
        return np.searchsorted(self._firsts, number, side="right") - 1

    def locate(self, number: IntArray) -> Places:
        """Where each global sample lies."""
        stages = self.stage_of(number)
        places = Places(stages, *(np.empty_like(number) for _ in range(3)))
        for stage, chosen in self._staged(stages):
            local, epoch, position, order = self._epochs(stage, number[chosen])
            places.source[chosen] = stage.sources[local]
            places.epoch[chosen] = epoch
            places.sample[chosen] = order.sample_at(position)
        return places

    def shares(self, number: IntArray) -> NDArray[np.float64]:
        """How far back in its window each global sample lies, 0 to 1: the same for as long as its block is wanted."""
        shares = np.empty(number.shape, np.float64)
        for stage, chosen in self._staged(self.stage_of(number)):
            _, _, position, order = self._epochs(stage, number[chosen])
            shares[chosen] = order.share_at(position)
        return shares

    def occurrences(self, stage_index: int, source: int, sample: int, limit: int) -> Iterator[Occurrence]:
        """Every time that ``sample`` of ``source`` comes up in a stage, before global sample ``limit``."""
        stage = self.stages[stage_index]
        limit = min(limit, stage.last)
        for local in np.flatnonzero(stage.sources == source):
            samples, before = int(stage.samples[local]), int(stage.served_before[local])
            epoch = before // samples
            while stage.number_of(int(local), max(0, epoch * samples - before)) < limit:
                key = np.array(self._key(source, epoch), np.uint64)
                order = Epoch(stage.samples[local], key, stage.chunks[local], self._window, self._by_block)
                ordinal = epoch * samples + int(order.position_of(sample)) - before
                number = stage.number_of(int(local), ordinal) if ordinal >= 0 else limit
                if number < limit:
                    yield Occurrence(number, stage_index, epoch)
                epoch += 1

    def served(self, number: int) -> list[int]:
        """Tokens that each source has served before global sample ``number``."""
        tokens = [0] * len(self._ids)
        for stage in self.stages:
            slots = min(max(0, number - stage.first), stage.last - stage.first)
            for entry, count in zip(stage.plan.sources, stage.mixture.served(slots), strict=True):
                tokens[entry.source] += count * stage.plan.sequence_length
        return tokens

    def _staged(self, stages: IntArray) -> "Iterator[tuple[_Stage, NDArray[np.bool_]]]":
        """The stages that come up in ``stages``, each with where it does."""
        for index in sorted(set(stages.tolist())):
            yield self.stages[index], stages == index

    def _epochs(self, stage: _Stage, number: IntArray) -> tuple[IntArray, IntArray, IntArray, Epoch]:
        """Global samples of one stage: which of its sources, the epoch, the position in it, and the epochs' order."""
        local, ordinal = stage.mixture.locate(number - stage.first)
        ordinal = ordinal + stage.served_before[local]
        samples = stage.samples[local]
        epoch = ordinal // samples
        keys = self._keys(stage.sources[local], epoch)
        order = Epoch(samples, keys, stage.chunks[local], self._window, self._by_block)
        return local, epoch, ordinal % samples, order

    def _make_key(self, source: int, epoch: int) -> int:
        return make_key("epoch", self._seed, self._ids[source], epoch)

    def _keys(self, source: IntArray, epoch: IntArray) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        """Each sample's key; those of one epoch of one source are looked up once."""
        code = epoch * len(self._ids) + source
        sorting = np.argsort(code, kind="stable")
        begins = np.flatnonzero(np.diff(code[sorting], prepend=-1))
        firsts = sorting[begins]
        keys = [
            self._key(one, other) for one, other in zip(source[firsts].tolist(), epoch[firsts].tolist(), strict=True)
        ]
        result = np.empty(code.shape, np.uint64)
        result[sorting] = np.repeat(np.array(keys, np.uint64), np.diff(begins, append=code.size))
        return result


def _place_stages(plans: list[StagePlan], num_sources: int) -> Iterator[_Stage]:
    first = tokens = 0
    served = [0] * num_sources  # samples of the current sequence length
    length = plans[0].sequence_length
    sizes = [1] * num_sources
    for number, plan in enumerate(plans):
        if plan.sequence_length != length:
            served = [-(-count // size) for count, size in zip(served, sizes, strict=True)]  # epochs begun
            new_sizes = {entry.source: entry.samples for entry in plan.sources}
            served = [count * new_sizes.get(source, 1) for source, count in enumerate(served)]
            length = plan.sequence_length
        last = LARGEST_SLOT
        if number + 1 < len(plans):
            last = first + -(-(plans[number + 1].from_tokens - tokens) // length)
        if last < first:  # the stage before had longer samples; an empty stage is harmless
            raise InputError(
                f"data.stages[{number}].from_tokens: must be larger than {tokens}, the first token at which a sample "
                f"of data.stages[{number - 1}] can begin, is {plans[number + 1].from_tokens}"
            )
        stage = _Stage(
            plan,
            first,
            last,
            Mixture([entry.weight for entry in plan.sources]),
            np.array([entry.source for entry in plan.sources], np.int64),
            np.array([entry.samples for entry in plan.sources], np.int64),
            np.array([entry.chunk for entry in plan.sources], np.int64),
            np.array([served[entry.source] for entry in plan.sources], np.int64),
        )
        yield stage
        for entry, count in zip(plan.sources, stage.mixture.served(last - first), strict=True):
            served[entry.source] += count
            sizes[entry.source] = entry.samples
        tokens += (last - first) * length
        first = last
