"""Losses over parameters or tokens as power laws, and how much less of them another kind needs.

In: points of each seed. Out: Estimates over seeds. Always: pure functions; a law is fitted for each seed by itself, and
its intervals are Student's t over seeds, as those of all figures here.

The law is loss = exp(level) * x^-exponent. A term for the loss that no size gets below would be a third number for
the four points that a seed has on an axis, and sizes or tokens of a desk are far from it; a bend in the points shows
in the picture.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.evaluation.statistics import Estimate, mean

Points = Sequence[tuple[float, float]]
"""(parameters or tokens, loss)"""
LARGEST_LOG = 700.0
"""of a number that there is"""
NOTHING = Estimate(math.nan, math.nan, math.nan, 0, "t")


@dataclass(frozen=True)
class PowerLaw:
    """loss = exp(level) * x^-exponent."""

    level: float
    exponent: float

    def at(self, x: float) -> float:
        """The loss."""
        return math.exp(self.level - self.exponent * math.log(x))

    def needed(self, loss: float) -> float:
        """The x at which the loss is reached; NaN where more of it does not lower the loss."""
        if self.exponent <= 0:
            return math.nan
        return math.exp((self.level - math.log(loss)) / self.exponent)


def fit(points: Points) -> PowerLaw:
    """Least squares of the logarithms; at least two different x."""
    logs = np.log(np.asarray(points, dtype=np.float64))
    slope, level = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return PowerLaw(float(level), float(-slope))


def exponent(seeds: Mapping[int, Points]) -> Estimate:
    """The exponent over seeds."""
    return mean([fit(points).exponent for points in seeds.values()])


def saved_share(reference: Mapping[int, Points], other: Mapping[int, Points]) -> Estimate:
    """The share of x that ``other`` needs less than ``reference`` at its largest x, for the same loss; negative: more.

    Both losses are those of the fits. Seeds are taken in pairs: equal seeds read the data in the same order.
    """
    logs = []
    for seed in sorted(reference.keys() & other.keys()):
        largest = max(x for x, _ in reference[seed])
        logs.append(math.log(fit(other[seed]).needed(fit(reference[seed]).at(largest)) / largest))
    if not logs or not all(map(math.isfinite, logs)):
        return NOTHING
    found = mean(logs)
    # An interval over few seeds may reach farther than numbers do.
    value, low, high = (1 - float(np.exp(min(x, LARGEST_LOG))) for x in (found.value, found.high, found.low))
    return Estimate(value, low, high, found.count, found.method)


def with_bound(values: Sequence[float | None], bound: float) -> Estimate:
    """The mean of steps to a loss, some of which were not reached within ``bound``.

    Those count as ``bound``, so the mean is at least that, and the interval has no upper end.
    """
    found = mean([bound if value is None else value for value in values])
    if None not in values:
        return found
    return Estimate(found.value, found.low, math.inf, found.count, f"{found.method}, at least")
