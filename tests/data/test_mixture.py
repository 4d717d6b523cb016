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
        for place in np.flatnonzero(source == number)[::7].tolist():
            assert mixture.slot_of(number, int(ordinal[place])) == place
    assert mixture.served(31_337) == np.bincount(source[:31_337], minlength=sources).tolist()


def test_every_prefix_holds_the_exact_shares_to_within_a_few_slots() -> None:
    weights = [0.5, 0.3, 0.1, 0.05, 0.03, 0.015, 0.005]
    source, _ = Mixture(weights).locate(np.arange(20_000))
    prefix = np.arange(1, 20_001)
    for number, weight in enumerate(weights):
        assert np.abs(np.cumsum(source == number) - weight * prefix).max() < 2


def test_a_rare_source_comes_up_in_the_middle_of_its_turn() -> None:
    """Not at once, whichever side of the tree it is on: a first batch would hold one sample of every rare source."""
    for weights in ([0.001, 1.0], [1.0, 0.001]):
        source, _ = Mixture(weights).locate(np.arange(2000))
        rare = np.flatnonzero(source == weights.index(0.001))
        assert 400 < rare[0] < 600
        assert 1400 < rare[1] < 1600


def test_a_period_holds_the_integer_counts_exactly() -> None:
    mixture = Mixture([3.0, 2.0, 1.9, 1e-3])
    for periods in (1, 5, 1000):
        assert mixture.served(periods * PERIOD) == [periods * count for count in mixture.counts]


def test_counts_add_up_and_no_source_is_rounded_away() -> None:
    counts = integer_counts([1.0, 1e-12, 2.0, 1e-12])
    assert sum(counts) == PERIOD
    assert counts[1] == counts[3] == 1
    assert integer_counts([1.0] * 3) == [PERIOD // 3 + 1, PERIOD // 3, PERIOD // 3]


def test_the_inverse_of_a_rare_source_goes_beyond_64_bits() -> None:
    mixture = Mixture([1e-12, 1.0, 1e-12, 1.0])
    assert mixture.slot_of(0, 2**40) == 2**40 * PERIOD + mixture.slot_of(0, 0)


def test_slots_far_out_are_exact_and_beyond_the_end_refused() -> None:
    mixture = Mixture([1.0, 2.0, 4.0])
    slots = np.arange(LARGEST_SLOT - 1000, LARGEST_SLOT)
    source, ordinal = mixture.locate(slots)
    for slot, number, own in zip(slots.tolist(), source.tolist(), ordinal.tolist(), strict=True):
        assert mixture.slot_of(number, own) == slot
    with pytest.raises(InputError, match="the order ends"):
        mixture.locate(np.array([LARGEST_SLOT]))
