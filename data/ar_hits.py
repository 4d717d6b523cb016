"""Which targets can be recalled from the context: the AR-hit split of a loss (DIFF paper, Table 6; Arora et al., 2023).

In: tokens of samples; bigram counts of training text. Out: a mask of targets. Always: a target is an AR-hit where the
bigram (token before, target) stands earlier in the same sample and is not frequent in training; the rest is Others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FREQUENT = 1250
"""A bigram that training text holds more often is known by heart (Arora et al., 2023, count theirs the same way)."""


@dataclass(frozen=True)
class FrequentBigrams:
    """The bigrams that stand often in training text."""

    vocab_size: int
    keys: NDArray[np.int64]
    """sorted; first * vocab_size + second"""
    counted_tokens: int

    def contains(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of ``keys`` is one of them."""
        if not self.keys.size:
            return np.zeros(keys.shape, bool)
        places = np.searchsorted(self.keys, keys).clip(max=self.keys.size - 1)
        return self.keys[places] == keys


def bigram_keys(tokens_BT: NDArray[np.integer], vocab_size: int) -> NDArray[np.int64]:
    """One number per pair of neighbours: [B, T] to [B, T-1]."""
    wide = tokens_BT.astype(np.int64)
    return wide[:, :-1] * vocab_size + wide[:, 1:]


def count_frequent(
    fetch: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    num_samples: int,
    vocab_size: int,
    most_tokens: int,
    frequent: int = FREQUENT,
    samples_at_once: int = 256,
) -> FrequentBigrams:
    """Counts the bigrams of the first samples, up to ``most_tokens`` tokens.

    ``frequent`` is for ``most_tokens`` tokens; where there are fewer, it shrinks in proportion, but not below 2.
    """
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    tokens = 0
    for first in range(0, num_samples, samples_at_once):
        if tokens >= most_tokens:
            break
        block = bigram_keys(fetch(np.arange(first, min(first + samples_at_once, num_samples))), vocab_size)
        tokens += block.size
        both = np.concatenate([keys, block.reshape(-1)])
        weights = np.concatenate([counts, np.ones(block.size, np.int64)])
        keys, places = np.unique(both, return_inverse=True)
        counts = np.bincount(places, weights).astype(np.int64)
    threshold = max(2.0, frequent * min(1.0, tokens / most_tokens))
    return FrequentBigrams(vocab_size, keys[counts > threshold], tokens)


def ar_hits(tokens_BT: NDArray[np.integer], frequent: FrequentBigrams) -> NDArray[np.bool_]:
    """For the targets tokens[:, 1:], which are AR-hits: [B, T-1]."""
    keys = bigram_keys(tokens_BT, frequent.vocab_size)
    hits = np.zeros(keys.shape, bool)
    for row, line in enumerate(keys):
        _, first, inverse = np.unique(line, return_index=True, return_inverse=True)
        hits[row] = np.arange(line.size) > first[inverse]
    return hits & ~frequent.contains(keys)
