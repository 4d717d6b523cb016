"""Even draws: bijective, and every stretch of positions fair to every part of the range."""

import numpy as np

from data.permute import make_key
from data.strata import place_at, position_of


def places(size: int, parts: int, seed: int = 0) -> np.ndarray:
    return place_at(*arguments(np.arange(size), size, parts, seed))


def arguments(numbers: np.ndarray, size: int, parts: int, seed: int) -> list[np.ndarray]:
    key = np.full(numbers.shape, make_key(seed), np.uint64)
    return [numbers, np.full_like(numbers, size), np.full_like(numbers, parts), key]


def test_bijective_with_an_inverse_whatever_the_sizes() -> None:
    random = np.random.default_rng(0)
    for seed in range(200):
        size = int(random.integers(1, 4000))
        parts = int(random.integers(1, min(size, 150) + 1))
        found = places(size, parts, seed)
        assert np.array_equal(np.sort(found), np.arange(size)), (size, parts)
        assert np.array_equal(position_of(*arguments(found, size, parts, seed)), np.arange(size)), (size, parts)


def test_as_many_positions_in_a_row_as_there_are_parts_take_one_place_of_each() -> None:
    for size, parts in ((7 * 13, 13), (7 * 13 + 5, 13), (2048, 32), (3001, 97)):
        part = places(size, parts) * parts // size
        for first in range(0, size - size % parts - parts, 5):
            counts = np.bincount(part[first : first + parts], minlength=parts)
            assert counts.max() <= (1 if size % parts == 0 else 2)


def test_a_stretch_has_its_share_of_each_half_quarter_and_eighth() -> None:
    size, parts, stretch = 9600, 96, 40  # fewer in a stretch than there are parts
    found = places(size, parts)
    for pieces in (2, 4, 8):
        for first in range(0, size - stretch, 7):
            counts = np.bincount(found[first : first + stretch] * pieces // size, minlength=pieces)
            assert abs(counts - stretch / pieces).max() <= 3  # drawn at random: up to 10


def test_the_places_of_a_part_come_in_no_order() -> None:
    found = places(64 * 500, 64)
    inside = found.reshape(500, 64) % 500
    assert abs(np.corrcoef(inside[:-1].ravel(), inside[1:].ravel())[0, 1]) < 0.15  # the parts share 500 turns
    assert abs(np.corrcoef(inside[:, :-1].ravel(), inside[:, 1:].ravel())[0, 1]) < 0.15  # the parts share 500 turns
    assert not np.array_equal(places(64 * 500, 64, seed=1), found)
