"""Which samples a rank reads, and where documents begin inside them.

In: a step and the split over data-parallel ranks; tokens. Out: global sample numbers per micro-batch; document
starts. Always: sample j of step s is number s * global_size + j, whatever the number of ranks and the
micro-batch: a change of either leaves the global order as it was.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.ranges import check_range
from data.config import LARGEST_BATCH, RampConfig


class BatchSchedule:
    """Which samples each step takes: ``global_size`` of them, fewer in the steps of a batch-size ramp.

    Steps and samples are counted from 0; the samples of step s follow those of step s - 1 without a gap.
    """

    def __init__(self, global_size: int, ramp: Sequence[RampConfig] = ()) -> None:
        self._sizes = [entry.global_size for entry in ramp] + [global_size]
        self._first_steps = [0, *accumulate(entry.steps for entry in ramp)]
        self._first_samples = [0, *accumulate(entry.steps * entry.global_size for entry in ramp)]

    def global_size(self, step: int) -> int:
        """Samples of ``step``."""
        return self._sizes[bisect_right(self._first_steps, step) - 1]

    def first_sample(self, step: int) -> int:
        """The first sample of ``step``: the number of samples consumed before it."""
        part = bisect_right(self._first_steps, step) - 1
        return self._first_samples[part] + (step - self._first_steps[part]) * self._sizes[part]

    def stretches(self, start: int, stop: int) -> list[RampConfig]:
        """Steps ``start`` .. ``stop - 1`` as stretches of one size each."""
        first_steps = [*self._first_steps, max(stop, self._first_steps[-1])]
        bounds = [(max(first, start), min(last, stop)) for first, last in pairwise(first_steps)]
        return [
            RampConfig(last - first, size)
            for (first, last), size in zip(bounds, self._sizes, strict=True)
            if last > first
        ]

    def step_of(self, sample: int) -> int:
        """The step that takes ``sample``."""
        part = bisect_right(self._first_samples, sample) - 1
        return self._first_steps[part] + (sample - self._first_samples[part]) // self._sizes[part]

    def rank_samples(self, step: int, micro_size: int, data_size: int, data_rank: int) -> list[NDArray[np.int64]]:
        """Global sample numbers of one data-parallel rank in ``step``, one array [micro_size] for each micro-batch.

        Raises:
            InputError: the step's size is no multiple of ``micro_size * data_size``.
        """
        size, first, per_pass = self.global_size(step), self.first_sample(step), micro_size * data_size
        if size % per_pass:
            raise InputError(
                f"batch.global_size: {size} sequences do not divide into micro-batches of {micro_size} on "
                f"{data_size} data-parallel ranks; a multiple of {per_pass} would"
            )
        starts = range(first + data_rank * micro_size, first + size, per_pass)
        return [np.arange(start, start + micro_size, dtype=np.int64) for start in starts]

    def place_of(self, sample: int, micro_size: int, data_size: int) -> tuple[int, int, int]:
        """The inverse of ``rank_samples``: step, data-parallel rank and micro-batch of ``sample``."""
        step = self.step_of(sample)
        place = sample - self.first_sample(step)
        return step, place // micro_size % data_size, place // (micro_size * data_size)


@dataclass(frozen=True)
class BatchConfig:
    """Sequences per optimizer step, and per forward pass of one data-parallel rank."""

    global_size: int = 32
    """sequences per optimizer step over all ranks"""
    micro_size: int = 8
    """sequences per forward pass of one data-parallel rank"""
    ramp: list[RampConfig] = field(default_factory=list)
    """smaller batches of the first steps, as [{steps: N, global_size: M}, ...]"""

    @property
    def schedule(self) -> BatchSchedule:
        """The samples of each step."""
        return BatchSchedule(self.global_size, self.ramp)

    def __post_init__(self) -> None:
        check_range(self, "batch.", "global_size", "micro_size", low=1, high=LARGEST_BATCH)


def document_starts(tokens_BT: NDArray[np.integer], eod_id: int) -> NDArray[np.int32]:
    """For each token the index in its sequence of the first token of the document that it is in, int32 [B, T].

    An EOD token belongs to the document that it ends. Positions that restart at document ends are
    ``arange(T) - document_starts``.
    """
    batch, length = tokens_BT.shape
    begins_BT = np.zeros((batch, length), np.int32)
    begins_BT[:, 1:] = np.where(tokens_BT[:, :-1] == eod_id, np.arange(1, length, dtype=np.int32), 0)
    return np.maximum.accumulate(begins_BT, axis=1)
