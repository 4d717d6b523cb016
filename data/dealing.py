"""Which data-parallel rank takes which samples of a step.

In: the samples' order, the sizes of steps, the split over ranks. Out: global sample numbers per micro-batch of a rank,
and the inverse. Always: a step has the same samples whatever the split. By number, the ranks take micro-batches in
turn; by block (data.shuffle_by_block), each takes the samples of its own part of the window, so that a block of a
remote store is wanted by one rank, or by two where its part ends.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.batch import BatchSchedule


class Ordered(Protocol):
    """Samples that ranks may share by block."""

    def by_block(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The samples in the order in which ranks share them; None: by number."""


class Dealing:
    """The samples of every step among ``data_size`` ranks, in micro-batches of ``micro_size``."""

    def __init__(self, samples: Ordered, schedule: BatchSchedule, micro_size: int, data_size: int) -> None:
        self._samples, self._schedule = samples, schedule
        self._micro_size, self._data_size = micro_size, data_size
        self._by_block = lru_cache(maxsize=4)(self._find_by_block)

    def rank_samples(self, step: int, data_rank: int) -> list[NDArray[np.int64]]:
        """Global sample numbers of one rank in ``step``, one array for each micro-batch.

        Raises:
            InputError: the step's size does not divide among the ranks.
        """
        by_number = self._schedule.rank_samples(step, self._micro_size, self._data_size, data_rank)
        ordered = self._by_block(step)
        if ordered is None:
            return by_number
        return list(ordered.reshape(self._data_size, len(by_number), self._micro_size)[data_rank])

    def place_of(self, sample: int) -> tuple[int, int, int]:
        """The inverse: step, rank and micro-batch of ``sample``."""
        step, rank, micro_batch = self._schedule.place_of(sample, self._micro_size, self._data_size)
        ordered = self._by_block(step)
        if ordered is not None:
            per_rank = ordered.size // self._data_size
            rank, place = divmod(int(np.flatnonzero(ordered == sample)[0]), per_rank)
            micro_batch = place // self._micro_size
        return step, rank, micro_batch

    def _find_by_block(self, step: int) -> NDArray[np.int64] | None:
        first = self._schedule.first_sample(step)
        return self._samples.by_block(np.arange(first, first + self._schedule.global_size(step)))
