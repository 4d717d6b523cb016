"""The order inside an epoch: bijective, and in windows where whole blocks are fetched from afar."""

import numpy as np
import pytest

from data.permute import make_key
from data.shuffle import Epoch


def epoch(size: int, chunk: int, window: int, seed: int = 0, by_block: bool = False) -> Epoch:
    return Epoch(np.array(size), np.array(make_key(seed), np.uint64), np.array(chunk), window, by_block)


@pytest.mark.parametrize("by_block", [False, True])
def test_bijective_with_an_inverse_whatever_the_sizes(by_block: bool) -> None:
    random = np.random.default_rng(0)
    for seed in range(150):
        size, chunk, window = (int(random.integers(*bounds)) for bounds in ((1, 5000), (1, 60), (0, 900)))
        order, positions = epoch(size, chunk, window, seed, by_block), np.arange(size)
        samples = order.sample_at(positions)
        assert np.array_equal(np.sort(samples), positions), (size, chunk, window)
        assert np.array_equal(order.position_of(samples), positions), (size, chunk, window)


@pytest.mark.parametrize("by_block", [False, True])
def test_a_window_wants_only_its_own_chunks_and_mixes_them(by_block: bool) -> None:
    samples = epoch(size=10_000, chunk=10, window=200, by_block=by_block).sample_at(np.arange(10_000))
    windows = samples.reshape(50, 200) // 10
    for chunks in windows:
        assert np.unique(chunks).size == 20  # whole chunks, wanted in this window alone
        assert np.count_nonzero(np.diff(chunks) == 0) < 40  # and not one after the other
    assert abs(np.corrcoef(windows.mean(axis=1), np.arange(50))[0, 1]) < 0.5  # chunks come from everywhere


def test_without_a_window_all_samples_are_mixed() -> None:
    samples = epoch(size=10_000, chunk=10, window=0).sample_at(np.arange(10_000))
    assert np.unique(samples[:200] // 10).size > 170


def test_by_block_a_stretch_takes_equally_many_samples_of_each_chunk_and_its_share_says_which() -> None:
    order = epoch(size=10_000, chunk=10, window=200, by_block=True)
    samples, shares = order.sample_at(np.arange(10_000)), order.share_at(np.arange(10_000))
    for window in range(50):
        own = slice(200 * window, 200 * window + 200)
        chunks = samples[own].reshape(10, 20) // 10
        assert np.array_equal(np.sort(chunks), np.tile(np.unique(chunks), (10, 1)))
        turns = samples[own][np.argsort(shares[own])].reshape(20, 10)
        assert (turns // 10 == turns[:, :1] // 10).all()  # chunk after chunk
