"""Intervals, against values from tables."""

import math

import numpy as np
import pytest

from scripts.evaluation.statistics import crossed, mean, proportion, ratio


def test_wilsons_interval() -> None:
    estimate = proportion(8, 10)  # Wilson (1927): 0.490 to 0.943
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert proportion(0, 50).low == 0.0
    assert proportion(50, 50).high == pytest.approx(1.0)
    assert math.isnan(proportion(0, 0).value)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042), (1000, 1.962)]
)
def test_the_interval_of_a_mean_is_students(degrees: int, quantile: float) -> None:
    """Against the printed table; the sample's standard deviation is 1 and its mean 5."""
    sample = np.zeros(degrees + 1)
    sample[:2] = np.array([-1, 1]) * math.sqrt(degrees / 2)
    estimate = mean(5 + sample)
    half = quantile / math.sqrt(degrees + 1)
    assert (estimate.low, estimate.high) == pytest.approx((5 - half, 5 + half), abs=6e-4)


def test_the_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    covered = [(e := mean(draw.normal(3.0, 2.0, size=8))).low <= 3.0 <= e.high for _ in range(1000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)


def test_a_ratio_is_sum_over_sum() -> None:
    estimate = ratio([1.0, 6.0], [1.0, 3.0], seed=0)
    assert estimate.value == pytest.approx(7 / 4)
    assert estimate.low == pytest.approx(1.0)
    assert estimate.high == pytest.approx(2.0)
    assert math.isnan(ratio([0.0], [0.0], seed=0).value)


def test_draws_that_share_their_examples_do_not_hide_the_spread_of_examples() -> None:
    """Ten draws with the very same answers are worth one: the interval is that of the twenty examples."""
    right = np.tile([1.0] * 5 + [0.0] * 15, (10, 1))
    estimate = crossed(right, seed=0)
    assert (estimate.value, estimate.count) == (0.25, 20)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * (0.25 * 0.75 / 20) ** 0.5, rel=0.2)
