"""The example of docs/parallelism.md is what the planner says, and its percentages follow from the sizes."""

import json
import re

import pytest
import yaml

from scripts.plan import main
from tests.conftest import ROOT

TEXT = (ROOT / "docs/parallelism.md").read_text()
CONFIG = ROOT / "configs/shared_diff_3b.yaml"
ROWS = re.findall(r"^\| (none|`--).*? \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", TEXT, flags=re.MULTILINE)
SETTINGS = re.findall(r"^\| (?:none: .*?|`(--.*?)`) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_row_of_the_example_is_what_the_planner_says(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(CONFIG), "--world-size", "64", "--json", *SETTINGS[number].split()]) == 0
    plan = json.loads(capsys.readouterr().out)
    step = plan["step"]["shared_diff"]
    said = f"{plan['memory']['total'] / 2**30:.1f}", f"{step['seconds']:.2f}", f"{step['data']:.2f}"
    assert ROWS[number][1:] == said


def test_the_example_shows_every_axis() -> None:
    assert len(ROWS) == len(SETTINGS) == 8
    shown = " ".join(SETTINGS)
    assert all(f"--parallel.{axis}" in shown for axis in ("tensor", "sequence", "pipeline", "zero_stage"))


def test_what_shared_diff_adds_is_said_in_percent() -> None:
    model = yaml.safe_load(CONFIG.read_text())["model"]
    bases = model["head_dim"] / (2 * model["hidden_size"])
    projections = model["rank"] / model["hidden_size"]
    assert f"{bases:.0%} and {projections:.0%} for the 3B model".replace("%", " %") in " ".join(TEXT.split())
