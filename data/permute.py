"""Permutations of 0..n-1 that need no table: a keyed Feistel network with cycle walking, and its inverse.

In: indices, sizes and keys, all broadcast against each other. Out: the permuted indices.
Always: bijective on 0..n-1 for every n >= 1 and every key; the same on every machine; vectorised.

Two halves of the index's bits are mixed in turn by a 64-bit multiply-xorshift hash of the other half (an
unbalanced Feistel network, Luby and Rackoff 1988, so any even or odd number of bits will do). Results beyond
n are permuted again until they fall inside (cycle walking, Black and Rogaway 2002): fewer than two turns on
average. Below ``SMALL`` elements the network mixes too few bits, and the indices are sorted by their hash.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
Words = NDArray[np.uint64]

ROUNDS = 8
SMALL = 1024
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


def make_key(*parts: int | str) -> int:
    """A 64-bit key from a hash of ``parts``: neighbouring seeds or epochs share nothing."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> IntArray:
    """The image of each ``index`` under the permutation of 0..size-1 that ``key`` names."""
    return _apply(index, size, key, inverse=False)


def unpermute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> IntArray:
    """The inverse of ``permute``: ``unpermute(permute(i, n, k), n, k) == i``."""
    return _apply(index, size, key, inverse=True)


def mix(words: Words) -> Words:
    """A 64-bit bijective hash with full avalanche (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * _MULTIPLY_1
        words = (words ^ (words >> np.uint64(27))) * _MULTIPLY_2
    return words ^ (words >> np.uint64(31))


def _apply(index: ArrayLike, size: ArrayLike, key: ArrayLike, inverse: bool) -> IntArray:
    index, size, key = np.asarray(index, np.int64), np.asarray(size, np.int64), np.asarray(key, np.uint64)
    shape = np.broadcast_shapes(index.shape, size.shape, key.shape)
    index = np.broadcast_to(index, shape).reshape(-1)
    if index.size and (index.min() < 0 or (index >= np.broadcast_to(size, shape).reshape(-1)).any()):
        raise ValueError(f"index outside 0..size-1: {index.min()} to {index.max()}, size at least {size.min()}")
    if size.size and size.min() >= SMALL and size.ndim == key.ndim == 0:
        return _walk(index, size.reshape(1), key.reshape(1), inverse).reshape(shape)
    size, key = np.broadcast_to(size, shape).reshape(-1), np.broadcast_to(key, shape).reshape(-1)
    images = np.empty(index.shape, np.int64)
    large = size >= SMALL
    images[large] = _walk(index[large], size[large], key[large], inverse)
    small = np.flatnonzero(~large)
    for table_size, table_key in set(zip(size[small].tolist(), key[small].tolist(), strict=True)):
        chosen = small[(size[small] == table_size) & (key[small] == np.uint64(table_key))]
        images[chosen] = _sorted_by_hash(table_size, table_key, inverse)[index[chosen]]
    return images.reshape(shape)


@lru_cache(maxsize=512)
def _sorted_by_hash(size: int, key: int, inverse: bool) -> IntArray:
    hashes = mix(mix(np.arange(size, dtype=np.uint64) + _STEP) ^ np.uint64(key))
    order = np.argsort(hashes, kind="stable")
    return np.argsort(order) if inverse else order


def _walk(index: IntArray, size: IntArray, key: Words, inverse: bool) -> IntArray:
    """Applies the network over the smallest power of two that holds ``size``, again wherever it left 0..size-1."""
    _, bits = np.frexp((size - 1).astype(np.float64))  # the bit length; exact below 2**53
    right_bits = (bits - bits // 2).astype(np.uint64)
    left_bits = (bits // 2).astype(np.uint64)
    images = _network(index.astype(np.uint64), left_bits, right_bits, key, inverse)
    everyone = (size.astype(np.uint64), left_bits, right_bits, key)
    limit, left_bits, right_bits, key = (np.broadcast_to(values, images.shape) for values in everyone)
    outside = np.flatnonzero(images >= limit)
    while outside.size:
        again = _network(images[outside], left_bits[outside], right_bits[outside], key[outside], inverse)
        images[outside] = again
        outside = outside[again >= limit[outside]]
    return images.astype(np.int64)


def _network(index: Words, left_bits: Words, right_bits: Words, key: Words, inverse: bool) -> Words:
    one = np.uint64(1)
    left_mask, right_mask = (one << left_bits) - one, (one << right_bits) - one
    left, right = index >> right_bits, index & right_mask
    for turn in reversed(range(ROUNDS)) if inverse else range(ROUNDS):
        with np.errstate(over="ignore"):
            round_key = mix(key + np.uint64(turn + 1) * _STEP)
        if turn % 2:
            right = right ^ (mix(left ^ round_key) & right_mask)
        else:
            left = left ^ (mix(right ^ round_key) & left_mask)
    return (left << right_bits) | right
