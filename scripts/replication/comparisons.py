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
from scripts.replication.sections import PartSettings
from scripts.replication.tables import Group, estimate, of_group, whole_laws
from scripts.replication.verdicts import Verdict, of_effect, of_two

LOSS = "validation_loss"
FARTHEST = 10
"""times the largest x that has run, or one part in so many of it, beyond which what a fit says is no figure"""


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


@dataclass(frozen=True)
class Condition:
    """What has to hold before a comparison says anything: a model that has not learned the task is no witness."""

    figure: str
    """a share of right answers"""
    chance: float
    """what answers without knowledge reach"""
    of_both: bool = False
    """both sides have to be above chance, not one of them only"""

    def unmet(self, groups: Sequence[Group], rows: Sequence[Row]) -> str:
        """Why the comparison says nothing; empty: it may say something."""
        found = [estimate(of_group(rows, group), self.figure) for group in groups]
        above = [value is not None and value.low > self.chance for value in found]
        if not (all(above) if self.of_both else any(above)):
            guesses = [group.title for group, knows in zip(groups, above, strict=True) if not knows]
            return f"{' and '.join(guesses)} not above chance ({self.figure} {self.chance:.3g})"
        if not self.of_both and all(value is not None and value.high >= 1 for value in found):
            return "both find everything"
        return ""


def compared(
    first: Group, second: Group, figure: str, better: str, papers: float | None, condition: Condition | None = None
) -> Callable[[Sequence[Row]], Finding]:
    """The judge of "``first`` is better than ``second``"."""

    def judge(rows: Sequence[Row]) -> Finding:
        of_groups = [(group, of_group(rows, group)) for group in (first, second)]
        if not all(own for _, own in of_groups):
            return NOT_RUN
        found = [(group, estimate(own, figure)) for group, own in of_groups]
        ours = "; ".join(f"{group.title} {'-' if value is None else told(value)}" for group, value in found)
        known = [value for _, value in found if value is not None]
        if len(known) < len(found):
            lost = [group.title for group, own in of_groups if any(row["figures"].get("diverged") for row in own)]
            return Finding(f"{ours}; of {' and '.join(lost)} a seed diverged", Verdict.UNDECIDED) if lost else NOT_RUN
        why = condition.unmet((first, second), rows) if condition is not None else ""
        if why:
            return Finding(f"{ours}; {why}", Verdict.UNDECIDED)
        return Finding(ours, of_two(known[0], known[1], better, papers))

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
    condition: Condition | None = None,
) -> Claim:
    """The claim that the first of two groups is better; its part is the first word of its name."""
    return Claim(
        name=name,
        part=name.partition(".")[0],
        sentence=sentence,
        source=printed.source if printed else BESIDE,
        papers=str(printed) if printed else "",
        how=how,
        judge=compared(*groups, figure, better, abs(printed.first - printed.second) if printed else None, condition),
    )


def saving(
    subject: str, reference: str, axis: str, part: PartSettings, papers: float | None
) -> Callable[[Sequence[Row]], Finding]:
    """The judge of "``subject`` reaches the loss of ``reference`` with less"."""

    def judge(rows: Sequence[Row]) -> Finding:
        theirs, ours = (whole_laws(rows, column, axis, LOSS, part) for column in (reference, subject))
        if not theirs.keys() & ours.keys():
            return NOT_RUN
        share = saved_share(theirs, ours)
        if share is NOTHING:
            return Finding("the loss does not fall with it", Verdict.UNDECIDED)
        return Finding(told_saving(share), of_effect(share, papers))

    return judge


def told_saving(share: Estimate) -> str:
    """A saving for people; one that is none as the multiple that is needed, as far as a fit can be followed."""
    no_farther = f", by a fit that is followed no farther (n={share.count})"
    if share.value > 1 - 1 / FARTHEST:
        return f"more than {100 - 100 / FARTHEST:g} % fewer{no_farther}"
    if share.value < 1 - FARTHEST:
        return f"more than {FARTHEST} times as many{no_farther}"
    if share.value >= 0:
        ends = [f"<{100 - 100 * FARTHEST}" if x < 1 - FARTHEST else f"{100 * x:.3g}" for x in (share.low, share.high)]
        value, unit = f"{100 * share.value:.3g}", " % fewer"
    else:
        ends = [f">{FARTHEST}" if x < 1 - FARTHEST else f"{1 - x:.3g}" for x in (share.high, share.low)]
        value, unit = f"{1 - share.value:.3g}", " times as many"
    interval = "" if math.isnan(share.low) else f" [{', '.join(ends)}]"
    return f"{value}{interval}{unit} (n={share.count})"
