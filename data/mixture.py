"""The blend of weighted sources: which source serves each slot, and how many slots it served before.

In: weights, and slot numbers from 0. Out: source and ordinal (that source's own slots counted from 0), and back.
Always: every prefix of slots holds each source's exact share to within a few slots, and every ``PERIOD``
slots exactly its integer count; no table over slots, whatever their number.

The sources are the leaves of a binary tree. Of the first x visitors of a node with integer counts c = a + b,
round(x a / c) go left: visitor x does exactly when that number grows with it. Every count is known in closed
form, and so is the inverse. Drawing sources at random would let the shares of batches
scatter, and permuting the slots of a period would mix neighbouring epochs of a small source.
"""

import numpy as np

from common.errors import InputError
from data.permute import IntArray

PERIOD = 1 << 24
LARGEST_SLOT = 1 << 38  # times PERIOD fits in 63 bits


class Mixture:
    """The blend of ``weights`` (positive numbers; only their ratios matter)."""

    def __init__(self, weights: list[float]) -> None:
        self.counts = integer_counts(weights)
        self._depth = (len(weights) - 1).bit_length()
        self._leaves = 1 << self._depth
        tree = np.zeros(2 * self._leaves, np.int64)  # node i has the children 2i and 2i + 1; the leaves come last
        tree[self._leaves : self._leaves + len(weights)] = self.counts
        for node in reversed(range(1, self._leaves)):
            tree[node] = tree[2 * node] + tree[2 * node + 1]
        self._tree = tree

    def locate(self, slot: IntArray) -> tuple[IntArray, IntArray]:
        """The source of each slot and the slot's ordinal within that source."""
        if slot.size and int(slot.max()) >= LARGEST_SLOT:
            raise InputError(f"sample {int(slot.max())}: the order ends at sample {LARGEST_SLOT - 1}")
        node, visitor = np.ones_like(slot), slot
        for _ in range(self._depth):
            left, total = self._tree[2 * node], self._tree[node]
            before = (visitor * left + total // 2) // total
            goes_left = ((visitor + 1) * left + total // 2) // total > before
            node = 2 * node + ~goes_left
            visitor = np.where(goes_left, before, visitor - before)
        return node - self._leaves, visitor

    def slot_of(self, source: int, ordinal: int) -> int:
        """The slot in which ``source`` serves its sample number ``ordinal``: the inverse of ``locate``.

        It may lie far beyond ``LARGEST_SLOT`` for a rare source, hence Python's integers.
        """
        node, visitor = self._leaves + source, ordinal
        while node > 1:
            total, own = int(self._tree[node // 2]), int(self._tree[node])
            if node % 2 == 0:
                visitor = -((total // 2 - (visitor + 1) * total) // own) - 1
            else:
                visitor = (visitor * total + total // 2) // own
            node //= 2
        return visitor

    def served(self, slots: int) -> list[int]:
        """How many of the first ``slots`` slots each source serves."""
        counts = {1: slots}
        for node in range(1, self._leaves):
            total = max(1, int(self._tree[node]))  # nothing is below a node without sources
            left = (counts[node] * int(self._tree[2 * node]) + total // 2) // total
            counts[2 * node], counts[2 * node + 1] = left, counts[node] - left
        return [counts[self._leaves + source] for source in range(len(self.counts))]


def integer_counts(weights: list[float]) -> list[int]:
    """Shares of ``PERIOD`` slots by largest remainder; every source gets at least one."""
    total = sum(weights)
    exact = [weight / total * PERIOD for weight in weights]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: max(0, PERIOD - sum(counts))]:
        counts[i] += 1
    while sum(counts) > PERIOD:  # the sources raised to one slot are paid for by the largest
        counts[counts.index(max(counts))] -= 1
    return counts
