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
        self._firsts, self._lasts = firsts, firsts + lengths - 1
        self._skipped_before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._trained_before = firsts - self._skipped_before[:-1]

    def number_of(self, trained: IntArray) -> IntArray:
        """The global sample that is the ``trained``-th one not skipped, counted from 0."""
        return trained + self._skipped_before[np.searchsorted(self._trained_before, trained, side="right")]

    def trained_of(self, number: int) -> int | None:
        """The inverse of ``number_of``; None: the sample is skipped."""
        place = int(np.searchsorted(self._firsts, number, side="right"))
        if place and number <= self._lasts[place - 1]:
            return None
        return number - int(self._skipped_before[place])

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
