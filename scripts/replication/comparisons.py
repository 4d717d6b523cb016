"""What a claim is, and the two forms that claims have: one group of cells is better than another; one kind needs less
than another for the same loss.

In: rows. Out: for each claim a Finding: our figure with its interval, and a verdict. Always: a claim without its rows
is "not run yet".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.evaluation.statistics import Estimate
from scripts.replication.fits import NOTHING, saved_share
from scripts.replication.rows import Row
from scripts.replication.tables import Group, estimate, of_group, points
from scripts.replication.verdicts import Verdict, of_effect, of_two

LOSS = "validation_loss"


@dataclass(frozen=True)
class Finding:
    """What came out."""

    ours: str
    verdict: Verdict


@dataclass(frozen=True)
class Claim:
    """A sentence that cells can speak about."""

    name: str
    """what --trace calls it"""
    part: str
    sentence: str
    source: str
    papers: str
    how: str
    judge: Callable[[Sequence[Row]], Finding]


NOT_RUN = Finding("", Verdict.NOT_RUN)


def told(found: Estimate, digits: int = 4) -> str:
    """An estimate for people: value, interval, seeds."""
    if math.isnan(found.value):
        return "no estimate"
    least = "at least " if found.high == math.inf else ""
    ends = "" if math.isnan(found.low) else f" [{found.low:.{digits}g}, {found.high:.{digits}g}]"
    return f"{least}{found.value:.{digits}g}{ends} (n={found.count})"


def compared(
    first: Group, second: Group, figure: str, better: str, papers: float | None
) -> Callable[[Sequence[Row]], Finding]:
    """The judge of "``first`` is better than ``second``"."""

    def judge(rows: Sequence[Row]) -> Finding:
        found = [(group, estimate(of_group(rows, group), figure)) for group in (first, second)]
        known = [(group, value) for group, value in found if value is not None]
        if len(known) < len(found):
            return NOT_RUN
        ours = "; ".join(f"{group.title} {told(value)}" for group, value in known)
        return Finding(ours, of_two(known[0][1], known[1][1], better, papers))

    return judge


BESIDE = "beside the papers"
"""the source of a claim that they do not make"""


@dataclass(frozen=True)
class Printed:
    """What a paper says about two groups of cells."""

    source: str
    first: float
    second: float
    digits: int = 2

    def __str__(self) -> str:
        return f"{self.first:.{self.digits}f} and {self.second:.{self.digits}f}"


def comparison(
    name: str,
    sentence: str,
    how: str,
    groups: tuple[Group, Group],
    figure: str,
    better: str,
    printed: Printed | None = None,
) -> Claim:
    """The claim that the first of two groups is better; its part is the first word of its name."""
    return Claim(
        name=name,
        part=name.partition(".")[0],
        sentence=sentence,
        source=printed.source if printed else BESIDE,
        papers=str(printed) if printed else "",
        how=how,
        judge=compared(*groups, figure, better, abs(printed.first - printed.second) if printed else None),
    )


def saving(
    subject: str, reference: str, axis: str, size: str, tokens: int, papers: float | None
) -> Callable[[Sequence[Row]], Finding]:
    """The judge of "``subject`` reaches the loss of ``reference`` with less"."""

    def judge(rows: Sequence[Row]) -> Finding:
        theirs, ours = (points(rows, column, axis, LOSS, size, tokens) for column in (reference, subject))
        if not theirs.keys() & ours.keys():
            return NOT_RUN
        share = saved_share(theirs, ours)
        if share is NOTHING:
            return Finding("the loss does not fall with it", Verdict.UNDECIDED)
        percent = Estimate(100 * share.value, 100 * share.low, 100 * share.high, share.count, share.method)
        return Finding(f"{told(percent, 3)} % fewer", of_effect(share, papers))

    return judge
