"""Permutations: bijective, inverted exactly, without structure, and the same for ever."""

import numpy as np
import pytest

from data.permute import make_key, permute, unpermute


@pytest.mark.parametrize("first", range(1, 4097, 512))
def test_bijective_with_an_inverse_for_every_small_size(first: int) -> None:
    for start in range(first, first + 512, 64):
        sizes = np.arange(start, start + 64)
        indices, size = np.concatenate([np.arange(size) for size in sizes]), np.repeat(sizes, sizes)
        images = permute(indices, size, make_key("small", start))
        ends = np.cumsum(sizes)
        for begin, end in zip(ends - sizes, ends, strict=True):
            assert np.array_equal(np.sort(images[begin:end]), indices[begin:end]), end - begin
        assert np.array_equal(unpermute(images, size, make_key("small", start)), indices)


@pytest.mark.parametrize("bits", range(13, 34))
def test_bijective_around_powers_of_two(bits: int) -> None:
    for size in (2**bits - 1, 2**bits, 2**bits + 1):
        key = make_key("power", size)
        whole = size < 2**18
        indices = np.arange(size) if whole else np.random.default_rng(bits).choice(size, 5000, shuffle=False)
        indices = np.union1d(indices, [0, size - 1])  # the last element is the one that others lose
        images = permute(indices, size, key)
        assert images.min() >= 0
        assert images.max() < size
        assert np.unique(images).size == indices.size
        assert np.array_equal(unpermute(images, size, key), indices)
        assert np.array_equal(permute(unpermute(indices, size, key), size, key), indices)


def test_bijective_for_random_sizes_with_a_size_and_key_for_each_index() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 20_000, 40)
    keys = np.array([make_key(int(size)) for size in sizes], np.uint64)
    owner = np.repeat(np.arange(40), sizes)
    indices = np.concatenate([np.arange(size) for size in sizes])
    images = permute(indices, sizes[owner], keys[owner])
    for number in range(40):
        own = images[owner == number]
        assert np.array_equal(np.sort(own), np.arange(sizes[number]))
        assert np.array_equal(own, permute(np.arange(sizes[number]), sizes[number], keys[number]))
    assert np.array_equal(unpermute(images, sizes[owner], keys[owner]), indices)


def test_no_lag_correlates_at_the_size_of_a_trillion_tokens() -> None:
    size, count = 244_140_625, 1 << 21
    images = permute(np.arange(count), size, make_key(7)) / size
    centred = images - images.mean()
    spectrum = np.fft.rfft(centred, 2 * count)
    correlation = np.fft.irfft(spectrum * spectrum.conj())[:16_385]
    assert np.abs(correlation[1:] / correlation[0]).max() < 0.005
    low_bit = permute(np.arange(count), size, make_key(8)) % 2 - 0.5
    assert abs(np.mean(low_bit[1:] * low_bit[:-1]) / np.mean(low_bit**2)) < 0.005


def test_keys_of_neighbouring_epochs_share_nothing() -> None:
    one, other = (permute(np.arange(100_000), 100_000, make_key("epoch", 1, "id", epoch)) for epoch in (0, 1))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert np.count_nonzero(one == other) < 10


def test_golden_vectors() -> None:
    """A change here changes the order of every run: raise data.order.ALGORITHM with it."""
    assert make_key("golden", 1) == GOLDEN_KEY
    for size, images in GOLDEN.items():
        assert permute(np.arange(6), size, GOLDEN_KEY).tolist() == images


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        permute(np.array([5]), 5, 1)
    assert permute(5, 2000, 7).shape == ()


GOLDEN_KEY = 901200488820056833
GOLDEN = {
    7: [6, 5, 1, 2, 3, 4],
    1023: [260, 48, 332, 393, 472, 856],
    1024: [711, 878, 962, 391, 816, 276],
    1025: [814, 563, 640, 857, 423, 564],
    244140625: [240917529, 100640727, 14960999, 90072861, 82320405, 50758318],
    8589934593: [4310797424, 7853982366, 1777922483, 6150479545, 3493801304, 592356061],
}
