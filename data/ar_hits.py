"""Which targets can be recalled from the context: the AR-hit split of a loss (DIFF paper, Table 6; Arora et al., 2023).

In: tokens of samples; bigram counts of training text. Out: a mask of targets. Always: a target is an AR-hit where the
bigram (token before, target) stands earlier in the same sample and is not frequent in training; the rest is Others.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FREQUENT_SHARE = 1.25e-7
"""A bigram that makes up more of the training text is known by heart.

The source speaks of 1,250 occurrences; read as in 10 billion tokens of training. A share means the same for every
amount of text that is counted. With 8 million tokens counted, 6.5 % of the targets of 2,048-token samples of Python
source are AR-hits; DIFF's numbers imply 7.8 %.
"""


@dataclass(frozen=True)
class FrequentBigrams:
    """The bigrams that stand often in training text."""

    vocab_size: int
    keys: NDArray[np.int64]
    """sorted; first * vocab_size + second"""
    counted: int
    """bigrams that were counted"""

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
    blocks: Iterable[NDArray[np.integer]],
    vocab_size: int,
    frequent_share: float = FREQUENT_SHARE,
    keys_at_once: int = 4_000_000,
) -> FrequentBigrams:
    """Counts the bigrams of ``blocks``, each tokens_BT whose rows are stretches of text.

    Frequent is what makes up more than ``frequent_share`` of them, and stands there more than twice.
    """
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    waiting: list[NDArray[np.int64]] = []
    for block in blocks:
        waiting.append(bigram_keys(block, vocab_size).reshape(-1))
        if sum(map(len, waiting)) >= keys_at_once:
            keys, counts = _merge(keys, counts, waiting)
            waiting = []
    keys, counts = _merge(keys, counts, waiting)
    total = int(counts.sum())
    return FrequentBigrams(vocab_size, keys[counts > max(2.0, frequent_share * total)], total)


def _merge(
    keys: NDArray[np.int64], counts: NDArray[np.int64], more: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both = np.concatenate([keys, *more])
    weights = np.concatenate([counts, np.ones(len(both) - len(keys), np.int64)])
    keys, places = np.unique(both, return_inverse=True)
    return keys, np.bincount(places, weights, minlength=len(keys)).astype(np.int64)


def ar_hits(tokens_BT: NDArray[np.integer], frequent: FrequentBigrams) -> NDArray[np.bool_]:
    """For the targets tokens[:, 1:], which are AR-hits: [B, T-1]."""
    keys = bigram_keys(tokens_BT, frequent.vocab_size)
    hits = np.zeros(keys.shape, bool)
    for row, line in enumerate(keys):
        _, first, inverse = np.unique(line, return_index=True, return_inverse=True)
        hits[row] = np.arange(line.size) > first[inverse]
    return hits & ~frequent.contains(keys)
