"""Rows of results by what they are compared over.

In: the rows of a part's grid. Out: groups of seeds, points for fits, estimates. Always: tries of a sweep are left out;
a group without rows is nothing, not zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.evaluation.statistics import Estimate, mean, widened
from scripts.replication.cells import PLAIN
from scripts.replication.fits import Points, with_bound
from scripts.replication.rows import Row, of_cells
from scripts.replication.sections import PartSettings

STEPS = "steps_to_"
"""how figures begin that may not have been reached"""


@dataclass(frozen=True)
class Group:
    """Cells that differ in nothing but their seeds."""

    column: str
    size: str
    tokens: int
    variant: str = PLAIN

    @property
    def title(self) -> str:
        """For people."""
        return self.column if self.variant == PLAIN else f"{self.column}, {self.variant}"


def of_group(rows: Sequence[Row], group: Group) -> list[Row]:
    """Its rows."""
    wanted = {"column": group.column, "size": group.size, "tokens": group.tokens, "variant": group.variant}
    return of_cells(rows, is_try=False, **wanted)


def estimate(rows: Sequence[Row], figure: str) -> Estimate | None:
    """The mean of a figure over seeds; None: no row, or one without the figure, as of a run that diverged.

    Its interval is Student's t over seeds, or what the prompts leave open, where that is more: seeds that all find
    nothing, or everything, agree because the prompts are few.
    """
    values = [row["figures"].get(figure) for row in rows]
    if figure.startswith(STEPS) and values:
        return with_bound(values, max(row["bound"] for row in rows))
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    within = [row["within"].get(figure) for row in rows]
    ends = [ends for ends in within if ends is not None]
    return widened(mean(known), known, ends) if len(ends) == len(rows) else mean(known)


def points(
    rows: Sequence[Row], column: str, axis: str, figure: str, size: str | None, tokens: int | None
) -> dict[int, Points]:
    """(x, figure) by seed, for a column; ``axis`` is "parameters" or "tokens", and the other one is given.

    Parameters are counted without the embedding: all kinds have the same one, and at small sizes it is most of a model.
    """
    fixed = {"tokens": tokens} if axis == "parameters" else {"size": size}
    found: dict[int, list[tuple[float, float]]] = {}
    for row in of_cells(rows, is_try=False, variant=PLAIN, column=column, **fixed):
        value = row["figures"].get(figure)
        if value is not None:
            x = row["parameters"] - row["embedding"] if axis == "parameters" else row["figures"]["trained_tokens"]
            found.setdefault(row["seed"], []).append((float(x), value))
    return {seed: sorted(pairs) for seed, pairs in found.items() if len({x for x, _ in pairs}) > 1}


def whole_laws(rows: Sequence[Row], column: str, axis: str, figure: str, part: PartSettings) -> dict[int, Points]:
    """The points of a law over all sizes at the most tokens, or over all tokens at the largest size.

    Of the seeds that have all of them: a law over what has run so far would be another one, read far outside of it.
    """
    count = len(part.sizes) if axis == "parameters" else len(part.tokens)
    found = points(rows, column, axis, figure, part.sizes[-1], part.tokens[-1])
    return {seed: pairs for seed, pairs in found.items() if len(pairs) == count}
