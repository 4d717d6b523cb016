"""What a comparison comes to, in one of five words.

In: Estimates over seeds, and the papers' figure. Out: a Verdict. Always: where intervals overlap nothing is said to be
larger; "not seen" says that an effect as large as the papers' can be ruled out, which is not the same as undecided.
"""

import math
from enum import StrEnum

from scripts.evaluation.statistics import Estimate


class Verdict(StrEnum):
    """A word for a claim."""

    SEEN = "seen here"
    NOT_SEEN = "not seen"
    OPPOSITE = "the opposite"
    UNDECIDED = "not decidable at this size"
    NOT_RUN = "not run yet"


def of_effect(effect: Estimate, papers: float | None) -> Verdict:
    """The verdict on an effect that is above 0 where the papers are right, and in them ``papers``."""
    if math.isnan(effect.low) or math.isnan(effect.high):
        return Verdict.UNDECIDED
    if effect.low > 0:
        return Verdict.SEEN
    if effect.high < 0:
        return Verdict.OPPOSITE
    return Verdict.NOT_SEEN if papers is not None and effect.high < papers else Verdict.UNDECIDED


def of_two(first: Estimate, second: Estimate, better: str, papers: float | None) -> Verdict:
    """The verdict on "``first`` is better than ``second``", by ``papers`` in the papers.

    ``better`` is "lower" or "higher". Two intervals that do not overlap are asked for: more than a test of the
    difference would want, and plain to see in a table.
    """
    ends = (first.low, first.high, second.low, second.high)
    if any(map(math.isnan, ends)):
        return Verdict.UNDECIDED
    above, below = first.low > second.high, first.high < second.low
    if above or below:
        return Verdict.SEEN if above == (better == "higher") else Verdict.OPPOSITE
    # The largest effect that both intervals leave room for.
    room = first.high - second.low if better == "higher" else second.high - first.low
    return Verdict.NOT_SEEN if papers is not None and room < papers else Verdict.UNDECIDED
