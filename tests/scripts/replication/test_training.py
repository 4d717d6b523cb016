"""Where a stage ends, by the lines that its run wrote."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from common.strict_yaml import read_yaml
from scripts.replication.cells import Cell
from scripts.replication.plans import plan_of, run_values
from scripts.replication.training import end_of, first_at_most
from tests.scripts.replication.grids import study

LINES: list[dict[str, Any]] = [
    {"step": 5, "validation_loss": 6.5},
    {"step": 10, "validation_loss": None},  # not finite
    {"step": 15, "validation_loss": 3.5},
    {"step": 20, "validation_loss": 4.0},
    {"step": 25, "validation_loss": 1.5},
]


def test_a_stage_ends_at_the_first_evaluation_that_is_low_enough() -> None:
    assert end_of(LINES, 40, 3.5) == LINES[2]
    assert end_of(LINES, 40, 1.0) is None
    assert end_of(LINES[:2], 40, 3.5) is None


def test_or_at_its_bound() -> None:
    assert end_of(LINES, 25, 1.0) == LINES[4]
    assert end_of(LINES, 25, None) == LINES[4]
    assert end_of(LINES[:4], 25, None) is None


def test_steps_to_a_loss_are_those_of_the_first_time() -> None:
    assert [first_at_most(LINES, loss) for loss in (7.0, 3.9, 2.0, 1.0)] == [5, 15, 25, None]


def test_a_run_whose_digest_looks_like_a_number_has_a_name(tmp_path: Path) -> None:
    """One key in 700 is digits, or digits with an e among them."""
    plan = plan_of(study(tmp_path), Cell("scaling", "ours", "s1", 240, "-", 1, 1e-3))
    stage = dataclasses.replace(plan.stages[0], digest="123456789012e345" + "0" * 48)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_values(stage, tmp_path, tmp_path / "run", None)))
    assert stage.key in read_yaml(path, "run")["name"]
