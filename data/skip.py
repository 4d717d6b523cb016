"""The skip list: global samples that are left out, so that later ones move up.

In: ranges of global samples. Out: the n-th sample that is trained on, and back. Always: a range changes nothing
before its first sample.
"""

import numpy as np

from data.config import SkipConfig
from data.permute import IntArray


class SkipList:
    """Translates between numbers of trained samples and numbers of the order, which counts skipped ones too."""

    def __init__(self, ranges: list[SkipConfig]) -> None:
        self.ranges = _merge(ranges)
        firsts = np.array([first for first, _ in self.ranges], np.int64)
        lengths = np.array([last - first + 1 for first, last in self.ranges], np.int64)
        self._skipped_before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._trained_before = firsts - self._skipped_before[:-1]

    def number_of(self, trained: IntArray) -> IntArray:
        """The global sample that is the ``trained``-th one not skipped, counted from 0."""
        return trained + self._skipped_before[np.searchsorted(self._trained_before, trained, side="right")]

    def trained_of(self, number: int) -> int | None:
        """The inverse of ``number_of``; None: the sample is skipped."""
        if any(first <= number <= last for first, last in self.ranges):
            return None
        return self.trained_before(number)

    def trained_before(self, number: int) -> int:
        """How many of the global samples below ``number`` are not skipped."""
        return number - sum(last - first + 1 for first, last in self.before(number))

    def passed(self, trained: int) -> int:
        """Global samples, skipped ones included, that lie behind after ``trained`` samples were trained on."""
        return int(self.number_of(np.array([trained - 1]))[0]) + 1 if trained else 0

    def before(self, number: int) -> list[tuple[int, int]]:
        """The ranges cut off at global sample ``number``."""
        return [(first, min(last, number - 1)) for first, last in self.ranges if first < number]


def _merge(ranges: list[SkipConfig]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for entry in sorted(ranges, key=lambda one: one.first):
        if merged and entry.first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], entry.last))
        else:
            merged.append((entry.first, entry.last))
    return merged
