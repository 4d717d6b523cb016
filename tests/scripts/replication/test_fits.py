"""Fits, savings and verdicts on points whose law is known."""

import math

import numpy as np
import pytest
from scipy.stats import t as student

from scripts.evaluation.statistics import Estimate, mean
from scripts.replication.fits import exponent, fit, saved_share, with_bound
from scripts.replication.verdicts import Verdict, of_effect, of_two

SIZES = (7e4, 3e5, 1.1e6, 5e6)


def law(level: float, power: float, factor: float = 1.0) -> list[tuple[float, float]]:
    """Points of a law that needs ``factor`` times as much for the same loss."""
    return [(x, level * (x / factor) ** -power) for x in SIZES]


def test_a_law_is_found_again_and_inverted() -> None:
    found = fit(law(9.0, 0.13))
    assert found.exponent == pytest.approx(0.13) and math.exp(found.level) == pytest.approx(9.0)
    assert found.needed(found.at(4.2e5)) == pytest.approx(4.2e5)
    assert math.isnan(fit([(1.0, 2.0), (3.0, 2.5)]).needed(2.0))


def test_a_kind_that_needs_three_fifths_saves_two_fifths() -> None:
    reference = {seed: law(9.0, 0.13) for seed in (1, 2, 3)}
    factors = {1: 0.57, 2: 0.60, 3: 0.64}
    saved = saved_share(reference, {seed: law(9.0, 0.13, factor) for seed, factor in factors.items()})
    logs = np.log(list(factors.values()))
    half = student.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    assert saved.value == pytest.approx(1 - math.exp(logs.mean()))
    assert saved.low == pytest.approx(1 - math.exp(logs.mean() + half))
    assert saved.high == pytest.approx(1 - math.exp(logs.mean() - half))
    assert saved.count == 3
    assert of_effect(saved, 0.40) is Verdict.SEEN


def test_laws_of_different_exponents_are_compared_at_the_largest_size_of_the_reference() -> None:
    reference, other = law(9.0, 0.13), law(7.0, 0.11)
    needed = (7.0 / reference[-1][1]) ** (1 / 0.11)
    assert saved_share({1: reference}, {1: other}).value == pytest.approx(1 - needed / SIZES[-1])
    assert math.isnan(saved_share({1: reference}, {2: other}).value)  # no seed in common


def test_a_saving_of_which_two_seeds_know_nothing_has_an_interval_all_the_same() -> None:
    """The logarithms of what is needed lie hundreds apart, so its interval reaches farther than numbers do."""
    flat = {1: [(x, 5.0 - 1e-2 * math.log(x)) for x in SIZES], 2: law(9.0, 0.13)}
    saved = saved_share({1: law(9.0, 0.13), 2: law(9.0, 0.13)}, flat)
    assert -math.inf < saved.low < saved.value < saved.high


def test_the_interval_of_the_exponent_is_over_seeds() -> None:
    powers = (0.11, 0.13, 0.18)
    found = exponent({seed: law(9.0, power) for seed, power in enumerate(powers)})
    expected = mean(powers)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_steps_that_were_not_reached_leave_the_interval_open() -> None:
    assert with_bound([300, 350, 400], 900) == mean([300, 350, 400])
    found = with_bound([300, None, 400], 900)
    assert found.high == math.inf and found.value == pytest.approx(1600 / 3) and "at least" in found.method


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 5, "t")


@pytest.mark.parametrize(
    ("effect", "papers", "verdict"),
    [
        ((0.1, 0.5), 0.4, Verdict.SEEN),
        ((-0.1, 0.5), 0.4, Verdict.UNDECIDED),
        ((-0.1, 0.3), 0.4, Verdict.NOT_SEEN),
        ((-0.1, 0.3), None, Verdict.UNDECIDED),
        ((-0.5, -0.1), 0.4, Verdict.OPPOSITE),
        ((math.nan, math.nan), 0.4, Verdict.UNDECIDED),
    ],
)
def test_an_effect_is_seen_only_if_its_interval_leaves_out_zero(
    effect: tuple[float, float], papers: float | None, verdict: Verdict
) -> None:
    assert of_effect(interval(*effect), papers) is verdict


@pytest.mark.parametrize(
    ("first", "second", "better", "papers", "verdict"),
    [
        ((3.0, 3.1), (3.2, 3.3), "lower", 0.05, Verdict.SEEN),
        ((3.0, 3.1), (3.2, 3.3), "higher", 0.05, Verdict.OPPOSITE),
        ((3.2, 3.3), (3.0, 3.1), "lower", 0.05, Verdict.OPPOSITE),
        ((3.0, 3.25), (3.2, 3.3), "lower", 0.05, Verdict.UNDECIDED),  # overlap, and room for 0.3
        ((3.0, 3.25), (3.2, 3.3), "lower", 0.35, Verdict.NOT_SEEN),
        ((3.0, 3.25), (3.2, 3.3), "lower", None, Verdict.UNDECIDED),
        ((0.8, 0.9), (0.85, 0.95), "higher", 0.04, Verdict.UNDECIDED),
        ((0.8, 0.9), (0.85, 0.95), "higher", 0.06, Verdict.NOT_SEEN),
        ((300.0, math.inf), (100.0, 200.0), "lower", None, Verdict.OPPOSITE),
        ((300.0, math.inf), (400.0, 500.0), "lower", None, Verdict.UNDECIDED),
        ((3.0, math.nan), (3.2, 3.3), "lower", 0.05, Verdict.UNDECIDED),
    ],
)
def test_two_groups_differ_only_if_their_intervals_do_not_overlap(
    first: tuple[float, float], second: tuple[float, float], better: str, papers: float | None, verdict: Verdict
) -> None:
    assert of_two(interval(*first), interval(*second), better, papers) is verdict
