"""Batches of a small run that must learn to copy, and what goes wrong with one.

In: a share of sequences that repeat, a batch size, a seed, a step. Out: tokens and labels.
Always: each batch follows from (seed, step) alone; the tokens of `UNSEEN` stand in bad batches only.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
VOCABULARY = 256
UNSEEN = 16
"""tokens at the end of the vocabulary that no healthy batch holds"""
SEGMENT = (4, 16)
"""tokens that are repeated until the sequence is full, at least and at most"""
CHOICES = 8
"""successors that a token of text has"""

Poison = Literal["noise", "shuffled labels", "one token", "other language", "gradient x100", "gradient x1e6"]
POISONS: tuple[Poison, ...] = get_args(Poison)
SCALES: dict[str, float] = {"gradient x100": 100.0, "gradient x1e6": 1e6}
"""by which a gradient is wrong where the batch is not"""

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""tokens and labels, [B, T]"""


class Batches:
    """Repeated segments of random tokens; the other sequences are text of a small language."""

    def __init__(self, size: int, repeating: float, seed: int) -> None:
        """``size`` sequences per batch, the share ``repeating`` of them segments; the seed draws the language, too."""
        self._size, self._repeating, self._seed = size, round(size * repeating), seed
        dice = np.random.default_rng([seed, 2**31])
        self._next, self._foreign = (dice.integers(0, VOCABULARY - UNSEEN, (VOCABULARY, CHOICES)) for _ in range(2))

    def healthy(self, step: int) -> Batch:
        """The batch of a step."""
        dice = np.random.default_rng([self._seed, step])
        return _shifted(np.concatenate([self._segments(dice), self._text(dice, self._next)]))

    def poisoned(self, step: int, poison: Poison) -> Batch:
        """What stands there instead; the healthy one where only the gradient goes wrong."""
        dice = np.random.default_rng([self._seed, step, 1])
        tokens, labels = self.healthy(step)
        if poison == "noise":
            return _shifted(dice.integers(0, VOCABULARY, (self._size, LENGTH + 1)))
        if poison == "shuffled labels":
            return tokens, dice.permuted(labels, axis=1)
        if poison == "one token":
            return _shifted(np.full((self._size, LENGTH + 1), VOCABULARY - 1))
        if poison == "other language":
            return _shifted(self._text(dice, self._foreign, self._size))
        return tokens, labels

    def copied(self, step: int) -> Batch:
        """Segments alone, as many as a batch has."""
        return _shifted(self._segments(np.random.default_rng([self._seed, step, 2]), self._size))

    def _segments(self, dice: np.random.Generator, count: int | None = None) -> NDArray[np.int64]:
        rows = np.empty((self._repeating if count is None else count, LENGTH + 1), np.int64)
        for row in rows:
            row[:] = np.resize(
                dice.integers(0, VOCABULARY - UNSEEN, dice.integers(SEGMENT[0], SEGMENT[1] + 1)), len(row)
            )
        return rows

    def _text(
        self, dice: np.random.Generator, successors: NDArray[np.int64], count: int | None = None
    ) -> NDArray[np.int64]:
        rows = np.empty((self._size - self._repeating if count is None else count, LENGTH + 1), np.int64)
        rows[:, 0] = dice.integers(0, VOCABULARY - UNSEEN, len(rows))
        for place in range(LENGTH):
            rows[:, place + 1] = successors[rows[:, place], dice.integers(0, CHOICES, len(rows))]
        return rows


def _shifted(rows: NDArray[np.int64]) -> Batch:
    return rows[:, :-1], rows[:, 1:]
