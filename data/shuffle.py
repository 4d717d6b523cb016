"""The order of one epoch of one source: a permutation of all samples, or of blocks and then of samples in windows.

In: positions in the epoch, the number of samples, a key. Out: sample numbers, and back. Always: bijective.

A global permutation touches another block with every sample: right for local disks. Where whole blocks are
fetched from afar, chunks of neighbouring samples are permuted among each other, and samples only within a
window of consecutive chunks: every block is then wanted within one window and can be dropped after it. ``by_block``
draws evenly from a window's chunks (data/strata.py), so that ranks can share each step's samples by block.
All arguments are broadcast against each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data import strata
from data.permute import IntArray, Words, mix, permute, unpermute

_WINDOW_KEY = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Epoch:
    """The samples of one epoch; ``window`` 0: one permutation of all."""

    size: IntArray
    """samples, n"""
    key: Words
    chunk: IntArray
    """neighbouring samples that stay in one window"""
    window: int
    """samples of one window, at least; 0: all"""
    by_block: bool = False
    """every stretch of a window takes equally many samples of each chunk in it"""

    def sample_at(self, position: ArrayLike) -> IntArray:
        """The sample at each position of the epoch."""
        position = np.asarray(position, np.int64)
        if not self.window:
            return permute(position, self.size, self.key)
        windows = _Windows(self)
        number, place = self._place_at(windows, position)
        slot, offset = windows.slot_at(number, place)
        return permute(slot, windows.chunks, self.key) * self.chunk + offset

    def position_of(self, sample: ArrayLike) -> IntArray:
        """The inverse of ``sample_at``."""
        sample = np.asarray(sample, np.int64)
        if not self.window:
            return unpermute(sample, self.size, self.key)
        windows = _Windows(self)
        slot = unpermute(sample // self.chunk, windows.chunks, self.key)
        number = slot // windows.per_window
        place = windows.place_of(number, slot, sample % self.chunk)
        size, key = windows.size(number), self._window_key(number)
        if self.by_block:
            place = strata.position_of(*np.broadcast_arrays(place, size, windows.slots(number), key))
        else:
            place = unpermute(place, size, key)
        return windows.start(number) + place

    def share_at(self, position: ArrayLike) -> NDArray[np.float64]:
        """How far back in its window each position's sample lies, 0 to 1: by it ranks share the samples of a step."""
        windows = _Windows(self)
        number, place = self._place_at(windows, np.asarray(position, np.int64))
        return place / windows.size(number)

    def _place_at(self, windows: "_Windows", position: IntArray) -> tuple[IntArray, IntArray]:
        """The window of each position, and its sample's place in it, chunk after chunk."""
        number = windows.number_at(position)
        inside, size, key = position - windows.start(number), windows.size(number), self._window_key(number)
        if self.by_block:
            return number, strata.place_at(*np.broadcast_arrays(inside, size, windows.slots(number), key))
        return number, permute(inside, size, key)

    def _window_key(self, number: IntArray) -> Words:
        with np.errstate(over="ignore"):
            return mix(self.key ^ _WINDOW_KEY) + number.astype(np.uint64)


class _Windows:
    """Windows of ``per_window`` slots, each for one chunk; the epoch's last chunk lacks ``missing`` samples."""

    def __init__(self, epoch: Epoch) -> None:
        self.chunk = np.asarray(epoch.chunk, np.int64)
        self.chunks = -(-epoch.size // self.chunk)
        self.missing = self.chunks * self.chunk - epoch.size
        self.per_window = np.maximum(1, -(-epoch.window // self.chunk))
        self.full = self.per_window * self.chunk
        self.short_slot = unpermute(self.chunks - 1, self.chunks, epoch.key)
        self.short_window = self.short_slot // self.per_window

    def number_at(self, position: IntArray) -> IntArray:
        """The window that holds each position."""
        past_short = position >= self.start(self.short_window + 1)
        return (position + self.missing * past_short) // self.full

    def start(self, number: IntArray) -> IntArray:
        """The first position of each window."""
        return number * self.full - self.missing * (number > self.short_window)

    def size(self, number: IntArray) -> IntArray:
        """Samples of each window."""
        return self.slots(number) * self.chunk - self.missing * (number == self.short_window)

    def slots(self, number: IntArray) -> IntArray:
        """Chunks of each window."""
        return np.minimum((number + 1) * self.per_window, self.chunks) - number * self.per_window

    def slot_at(self, number: IntArray, place: IntArray) -> tuple[IntArray, IntArray]:
        """The slot, and the offset in its chunk, of the ``place``-th sample of window ``number``."""
        short_end = (self.short_slot - number * self.per_window + 1) * self.chunk - self.missing
        padded = place + self.missing * ((number == self.short_window) & (place >= short_end))
        return number * self.per_window + padded // self.chunk, padded % self.chunk

    def place_of(self, number: IntArray, slot: IntArray, offset: IntArray) -> IntArray:
        """The inverse of ``slot_at``."""
        padded = (slot - number * self.per_window) * self.chunk + offset
        return padded - self.missing * ((number == self.short_window) & (slot > self.short_slot))
