"""The blend: exact shares at every prefix, exact counts per period, an exact inverse."""

import numpy as np
import pytest

from common.errors import InputError
from data.mixture import LARGEST_SLOT, PERIOD, Mixture, integer_counts


@pytest.mark.parametrize("sources", [1, 2, 3, 7, 100, 257])
def test_every_slot_has_one_source_and_every_source_counts_its_own_slots(sources: int) -> None:
    weights = (np.random.default_rng(sources).random(sources) ** 4 + 1e-6).tolist()
    mixture = Mixture(weights)
    slots = np.arange(50_000)
    source, ordinal = mixture.locate(slots)
    for number in range(sources):
        assert np.array_equal(ordinal[source == number], np.arange(np.count_nonzero(source == number)))
        assert np.array_equal(mixture.slot_of(number, ordinal[source == number]), slots[source == number])
    assert mixture.served(31_337) == np.bincount(source[:31_337], minlength=sources).tolist()


def test_every_prefix_holds_the_exact_shares_to_within_a_few_slots() -> None:
    weights = [0.5, 0.3, 0.1, 0.05, 0.03, 0.015, 0.005]
    source, _ = Mixture(weights).locate(np.arange(20_000))
    prefix = np.arange(1, 20_001)
    for number, weight in enumerate(weights):
        assert np.abs(np.cumsum(source == number) - weight * prefix).max() < 3


def test_a_period_holds_the_integer_counts_exactly() -> None:
    mixture = Mixture([3.0, 2.0, 1.9, 1e-3])
    for periods in (1, 5, 1000):
        assert mixture.served(periods * PERIOD) == [periods * count for count in mixture.counts]


def test_counts_add_up_and_no_source_is_rounded_away() -> None:
    counts = integer_counts([1.0, 1e-12, 2.0, 1e-12])
    assert sum(counts) == PERIOD
    assert counts[1] == counts[3] == 1
    assert integer_counts([1.0] * 3) == [PERIOD // 3 + 1, PERIOD // 3, PERIOD // 3]


def test_slots_far_out_are_exact_and_beyond_the_end_refused() -> None:
    mixture = Mixture([1.0, 2.0, 4.0])
    slots = np.arange(LARGEST_SLOT - 1000, LARGEST_SLOT)
    source, ordinal = mixture.locate(slots)
    for number in range(3):
        assert np.array_equal(mixture.slot_of(number, ordinal[source == number]), slots[source == number])
    with pytest.raises(InputError, match="the order ends"):
        mixture.locate(np.array([LARGEST_SLOT]))
