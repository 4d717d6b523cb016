"""Even draws from the parts of a range: every stretch of positions takes equally many places from each part.

In: positions 0 .. n - 1, and K parts that cut the places 0 .. n - 1 into ranges of n / K. Out: places, and back.
Always: bijective; any K positions in a row take one place of each part, but for the last n mod K; of any stretch, the
places below each n / 2, n / 4, ... are as many as its share, to within a few.

The parts take turns in the order of their bit-reversed numbers (van der Corput), which spreads any stretch of turns
evenly over the range. The turn says which place of a part: the parts share a permutation, each begins it elsewhere.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.permute import IntArray, Words, mix, permute, unpermute


def place_at(position: IntArray, size: IntArray, parts: IntArray, key: Words) -> IntArray:
    """The place that each position takes; all arguments have one shape, and ``parts`` are at most ``size``."""
    place = np.empty(position.shape, np.int64)
    for chosen, cut in _cuts(size, parts):
        turn, seat = np.divmod(position[chosen], cut.parts)
        part = cut.order[seat]
        sizes, keys = cut.sizes[part], key[chosen]
        place[chosen] = cut.starts[part] + (permute(turn, sizes, keys) + _shift(keys, part, sizes)) % sizes
    return place


def position_of(place: IntArray, size: IntArray, parts: IntArray, key: Words) -> IntArray:
    """The inverse of ``place_at``."""
    position = np.empty(place.shape, np.int64)
    for chosen, cut in _cuts(size, parts):
        part = np.searchsorted(cut.starts, place[chosen], side="right") - 1
        sizes, keys = cut.sizes[part], key[chosen]
        turn = unpermute((place[chosen] - cut.starts[part] - _shift(keys, part, sizes)) % sizes, sizes, keys)
        position[chosen] = turn * cut.parts + cut.seats[part]
    return position


class _Cut:
    """One range of ``size`` places, cut into ``parts``."""

    def __init__(self, size: int, parts: int) -> None:
        self.parts = parts
        bits = max(1, (parts - 1).bit_length())
        reversed_bits = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits)]
        self.order = np.array([number for number in reversed_bits if number < parts], np.int64)
        """which part has the turn, for each seat"""
        self.seats = np.argsort(self.order)
        self.sizes: IntArray = size // parts + (self.seats < size % parts).astype(np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes


_cut = lru_cache(maxsize=16)(_Cut)


def _cuts(size: IntArray, parts: IntArray) -> list[tuple[NDArray[np.bool_], _Cut]]:
    """The different ranges, each with where it is meant."""
    pairs = sorted(set(zip(size.ravel().tolist(), parts.ravel().tolist(), strict=True)))
    return [((size == one) & (parts == other), _cut(one, other)) for one, other in pairs]


def _shift(key: Words, part: IntArray, size: IntArray) -> IntArray:
    """Where each part begins the permutation."""
    with np.errstate(over="ignore"):
        hashes = mix(mix(part.astype(np.uint64) + np.uint64(1)) ^ key)
    return (hashes % size.astype(np.uint64)).astype(np.int64)
