"""Estimates with 95 % confidence intervals.

In: what was counted or measured. Out: an Estimate. Always: the method and the number of independent samples are said.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # 97.5 % of the normal distribution lies below


@dataclass(frozen=True)
class Estimate:
    """A number and how sure we are of it."""

    value: float
    low: float
    high: float
    count: int
    """independent samples behind it"""
    method: str

    def map(self, function: Callable[[float], float]) -> "Estimate":
        """The same estimate of an increasing ``function`` of the number."""
        return replace(self, value=function(self.value), low=function(self.low), high=function(self.high))

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n={self.count})"


def proportion(successes: float, count: int) -> Estimate:
    """Share of successes with Wilson's score interval, which holds near 0 and 1, too.

    Not scipy's, which takes whole numbers of successes only; nor are the bootstraps below, whose draws are paired
    otherwise there.
    """
    if count == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, "wilson")
    share = successes / count
    centre = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count, "wilson")


def mean(values: ArrayLike) -> Estimate:
    """Mean with Student's t interval; ``values`` are independent of each other."""
    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "t")
    centre = float(sample.mean())
    if sample.size == 1:
        return Estimate(centre, math.nan, math.nan, 1, "t")
    from scipy.special import stdtrit  # slow to import, and not needed to read an Estimate

    half = float(stdtrit(sample.size - 1, 0.975)) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Estimate(centre, centre - half, centre + half, sample.size, "t")


def widened(over_seeds: Estimate, values: Sequence[float], within: Sequence[tuple[float, float]]) -> Estimate:
    """A mean over seeds with the ends that the seeds' own intervals (``within``) give it, where these lie further out.

    Seeds that all find nothing, or everything, agree because their prompts are few.
    """
    below = math.hypot(*(value - low for value, (low, _) in zip(values, within, strict=True))) / len(values)
    above = math.hypot(*(high - value for value, (_, high) in zip(values, within, strict=True))) / len(values)
    low, high = over_seeds.value - below, over_seeds.value + above
    return replace(over_seeds, low=_least(low, over_seeds.low), high=-_least(-high, -over_seeds.high))


def _least(value: float, other: float) -> float:
    """The smaller one; the end of an interval that one seed does not have is NaN, and counts for nothing."""
    return value if math.isnan(other) else min(value, other)


def ratio(numerators: ArrayLike, denominators: ArrayLike, seed: int, resamples: int = 1000) -> Estimate:
    """Sum over sum, with a bootstrap over the pairs: a mean per token whose samples have unequal numbers of them."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    if bottom.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "bootstrap")
    draws = np.random.default_rng(seed).integers(len(top), size=(resamples, len(top)))
    sums = bottom[draws].sum(axis=1)
    drawn = top[draws].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high), len(top), "bootstrap")


def crossed(right: ArrayLike, seed: int, resamples: int = 1000) -> Estimate:
    """Mean of [draws, examples], with a bootstrap over both: what is counted are examples, which draws share."""
    table = np.asarray(right, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = generator.integers(table.shape[0], size=(resamples, table.shape[0]))
    columns = generator.integers(table.shape[1], size=(resamples, table.shape[1]))
    means = [table[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)]
    return quantile_bootstrap(means, float(table.mean()), table.shape[1])


def distance_bootstrap(noise: ArrayLike, distance: float, count: int) -> Estimate:
    """An Estimate of how far apart numbers lie, from how far apart resampling takes their errors (``noise``).

    For a measure like the range or the standard deviation, which obeys the triangle inequality, what was found is no
    farther from the truth than the measure of the errors: this holds at least as often as it says, and more often where
    the numbers are far apart. The quantiles of the resampled distances would not: errors only add to the distance of
    equal numbers; the basic bootstrap, which turns them round, held 68 times of 100 for equal ones.
    """
    half = float(np.quantile(np.asarray(noise), 0.95))
    return Estimate(distance, max(0.0, distance - half), distance + half, count, "bootstrap of the errors")


def quantile_bootstrap(statistics: Sequence[float], value: float, count: int) -> Estimate:
    """An Estimate of ``value`` from its bootstrapped ``statistics``."""
    low, high = np.quantile(np.asarray(statistics), [0.025, 0.975])
    return Estimate(value, float(low), float(high), count, "bootstrap")
