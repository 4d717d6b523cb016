"""The order inside an epoch: bijective, and in windows where whole blocks are fetched from afar."""

import numpy as np

from data.permute import make_key
from data.shuffle import Epoch


def epoch(size: int, chunk: int, window: int, seed: int = 0) -> Epoch:
    return Epoch(np.array(size), np.array(make_key(seed), np.uint64), np.array(chunk), window)


def test_bijective_with_an_inverse_whatever_the_sizes() -> None:
    random = np.random.default_rng(0)
    for seed in range(150):
        size, chunk, window = (int(random.integers(*bounds)) for bounds in ((1, 5000), (1, 60), (0, 900)))
        order, positions = epoch(size, chunk, window, seed), np.arange(size)
        samples = order.sample_at(positions)
        assert np.array_equal(np.sort(samples), positions), (size, chunk, window)
        assert np.array_equal(order.position_of(samples), positions), (size, chunk, window)


def test_a_window_wants_only_its_own_chunks_and_mixes_them() -> None:
    samples = epoch(size=10_000, chunk=10, window=200).sample_at(np.arange(10_000))
    windows = samples.reshape(50, 200) // 10
    for chunks in windows:
        assert np.unique(chunks).size == 20  # whole chunks, wanted in this window alone
        assert np.count_nonzero(np.diff(chunks) == 0) < 40  # and not one after the other
    assert abs(np.corrcoef(windows.mean(axis=1), np.arange(50))[0, 1]) < 0.5  # chunks come from everywhere


def test_without_a_window_all_samples_are_mixed() -> None:
    samples = epoch(size=10_000, chunk=10, window=0).sample_at(np.arange(10_000))
    assert np.unique(samples[:200] // 10).size > 170
