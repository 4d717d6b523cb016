"""Comparisons say nothing where there is nothing to compare: models that have not learned, or have learned it all."""

import math
from pathlib import Path
from typing import Any

import pytest

from common.cli import parse_config
from scripts.evaluation.statistics import Estimate
from scripts.replication.claims import claims_of
from scripts.replication.comparisons import Condition, compared, told_saving
from scripts.replication.config import StudyConfig
from scripts.replication.rows import Row
from scripts.replication.tables import Group, estimate
from scripts.replication.verdicts import Verdict
from tests.conftest import ROOT

RIGHT = "needles.right"
OURS, OLDER = Group("ours", "s1", 0), Group("older", "s1", 0)


def rows(column: str, values: list[float | None], within: float | None = None, **figures: float) -> list[Row]:
    """One for each seed; ``within``: half of the interval that the prompts of each leave open."""

    def row(value: float | None) -> dict[str, Any]:
        own = {**figures, RIGHT: value, "diverged": float(value is None)}
        ends = {} if within is None or value is None else {RIGHT: [max(0, value - within), min(1, value + within)]}
        cell = {"column": column, "size": "s1", "tokens": 0, "variant": "-", "is_try": False}
        return {**cell, "figures": own, "within": ends, "bound": 23}

    return [row(value) for value in values]


def verdict(ours: list[Row], older: list[Row], papers: float | None = 0.3, **condition: Any) -> tuple[Verdict, str]:
    needed = Condition(**{"figure": RIGHT, "chance": 0.25, **condition})
    found = compared(OURS, OLDER, RIGHT, "higher", papers, needed)([*ours, *older])
    return found.verdict, found.ours


def test_a_comparison_needs_one_side_that_is_better_than_guessing_and_one_that_misses_something() -> None:
    guessing, knows = rows("older", [0.22, 0.25, 0.27], 0.1), rows("ours", [0.9, 0.93, 0.95], 0.05)
    assert verdict(knows, guessing)[0] is Verdict.SEEN
    found, said = verdict(rows("ours", [0.24, 0.26, 0.25], 0.1), guessing)
    assert found is Verdict.UNDECIDED and said.endswith("; ours and older not above chance (needles.right 0.25)")
    found, said = verdict(rows("ours", [1.0, 1.0, 1.0], 0.03), rows("older", [1.0, 1.0, 1.0], 0.03))
    assert found is Verdict.UNDECIDED and said.endswith("; both find everything")


def test_what_only_learned_models_can_show_asks_for_two_of_them() -> None:
    guessing, knows = rows("older", [0.22, 0.25, 0.27], 0.1), rows("ours", [0.9, 0.93, 0.95], 0.05)
    assert verdict(knows, guessing, of_both=True)[0] is Verdict.UNDECIDED
    assert verdict(guessing, knows, of_both=True)[0] is Verdict.UNDECIDED
    other = rows("older", [0.42, 0.45, 0.47], 0.1)
    assert verdict(knows, other, of_both=True)[0] is Verdict.SEEN


def test_seeds_that_agree_because_their_prompts_are_few_are_not_sure() -> None:
    """Three times none of a few prompts: not a zero without an error."""
    found = estimate(rows("ours", [0.0, 0.0, 0.0], 0.09), RIGHT)
    assert found is not None and (found.low, found.high) == pytest.approx((0.0, 0.09 / math.sqrt(3)))
    wide = [0.1, 0.5, 0.9]  # here the seeds differ by more than the prompts explain
    over_seeds = estimate(rows("ours", list(wide)), RIGHT)
    assert estimate(rows("ours", list(wide), 0.05), RIGHT) == over_seeds
    one = estimate(rows("ours", [0.5], 0.125), RIGHT)
    assert one is not None and (one.low, one.high) == (0.375, 0.625)


def test_a_seed_that_diverged_is_told_and_decides_nothing() -> None:
    found, said = verdict(rows("ours", [0.9, None, 0.95]), rows("older", [0.1, 0.1, 0.1]))
    assert found is Verdict.UNDECIDED and said.endswith("of ours a seed diverged")
    assert verdict([], rows("older", [0.1, 0.1]))[0] is Verdict.NOT_RUN


def test_steps_that_were_not_reached_count_as_the_bound_of_the_stage(tmp_path: Path) -> None:
    figure = "steps_to_2"
    two = [{**row, "figures": {figure: steps}} for row, steps in zip(rows("ours", [0, 0]), (7, None), strict=True)]
    found = estimate(two, figure)
    assert found is not None and (found.value, found.high) == (15.0, math.inf)


def test_needles_of_which_any_is_named_are_guesses() -> None:
    """Of four needles, a model that names one of them is right in a quarter of its answers."""
    config = parse_config(StudyConfig, ["--config", str(ROOT / "studies/desk.yaml")], "test")
    claims = {claim.name: claim for claim in claims_of(config)}
    for pair, chance in (((2, 2), 0.5), ((4, 2), 0.25), ((6, 2), 1 / 6)):
        figure = "needles.needles_{}_asked_{}".format(*pair)
        cells = [
            {
                **row,
                "column": column,
                "size": "c2",
                "figures": {figure: chance},
                "within": {figure: [0.9 * chance, 0.6]},
            }
            for column in ("standard", "shared_diff")
            for row in rows("ours", [chance] * 3)
        ]
        found = claims["retrieval.needles_{}_{}.shared_diff.standard".format(*pair)].judge(cells)
        assert found.verdict is Verdict.UNDECIDED and "not above chance" in found.ours


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ((0.97, 0.91, 0.99), "more than 90 % fewer, by a fit that is followed no farther (n=3)"),
        ((0.37, 0.22, 0.5), "37 [22, 50] % fewer (n=3)"),
        ((-1.5, -3.0, -0.25), "2.5 [1.25, 4] times as many (n=3)"),
        ((0.37, -45.0, 0.5), "37 [<-900, 50] % fewer (n=3)"),
        ((-1.5, -1e300, -0.25), "2.5 [1.25, >10] times as many (n=3)"),
        ((-1.5, math.nan, math.nan), "2.5 times as many (n=3)"),
        ((-11.0, -45.0, -2.0), "more than 10 times as many, by a fit that is followed no farther (n=3)"),
    ],
)
def test_a_saving_that_is_none_is_a_multiple_as_far_as_the_fit_can_be_followed(
    share: tuple[float, float, float], said: str
) -> None:
    assert told_saving(Estimate(*share, 3, "t")) == said
