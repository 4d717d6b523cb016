"""Curves of several runs over tokens: every number in its place, and no spike lost of long ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.cli import to_yaml
from pretrain.config import RunConfig
from pretrain.devices import GIB
from scripts.reporting.curves import MOST_POINTS, charts_of, thinned
from scripts.reporting.runs import RunFacts, read_run


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[..., RunFacts]:
    """A run of these lines."""

    def make(name: str, lines: list[dict[str, object]]) -> RunFacts:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(RunConfig(name=name)))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_run(folder)

    return make


def test_runs_old_and_new_lie_on_one_chart_over_tokens(run_with: Callable[..., RunFacts]) -> None:
    old = run_with(
        "old",
        [
            {"step": 3, "tokens": 300, "loss": 5.0, "peak_memory_bytes": None},
            {"step": 6, "tokens": 500, "loss": None},  # refused: its loss was no number
            {"step": 6, "validation_loss": 4.5},
            {"step": 9, "tokens": 900, "loss": 4.0},
            {"step": 9, "validation_loss": 4.25},
        ],
    )
    line = {"step": 2, "tokens": 700, "loss": 3.0, "mean_loss": 3.5, "peak_memory_bytes": GIB * 3 // 2}
    new = run_with("new", [line])
    charts = {chart["title"]: chart for chart in charts_of([old, new])}
    assert list(charts) == ["Loss", "Memory of rank 0's GPU"]
    found = {(series["run"], series["name"]): series["points"] for series in charts["Loss"]["series"]}
    assert found == {
        (0, "training"): [(300, 5.0), (900, 4.0)],
        (0, "held out"): [(900, 4.25)],
        (1, "training"): [(700, 3.5)],
    }
    (memory,) = charts["Memory of rank 0's GPU"]["series"]
    assert (memory["run"], memory["points"]) == (1, [(700, 1.5)])


def test_a_long_curve_keeps_its_spikes_and_its_order() -> None:
    draw = np.random.default_rng(3)
    points = [(float(place), float(height)) for place, height in enumerate(draw.normal(size=77_777))]
    points[31_313] = (31_313.0, 1e6)
    points[31_314] = (31_314.0, -1e6)
    kept = thinned(points, MOST_POINTS)
    assert MOST_POINTS / 2 < len(kept) <= MOST_POINTS
    assert set(kept) <= set(points) and kept == sorted(kept)
    assert {points[31_313], points[31_314]} <= set(kept)
    assert thinned(points[:MOST_POINTS], MOST_POINTS) == points[:MOST_POINTS]
    assert thinned([(1.0, 2.0)] * (MOST_POINTS + 1), MOST_POINTS)[0] == (1.0, 2.0)
