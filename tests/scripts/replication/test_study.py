"""The command itself: a reduced study, with real runs; and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.cli import parse_config
from common.errors import InputError
from scripts.replication.config import StudyConfig
from scripts.replication.grid import Grid
from scripts.replication.rows import Results
from scripts.study import main
from tests.conftest import ROOT


def arguments(folder: Path, *more: str) -> list[str]:
    places = [f"--work={folder / 'work'}", f"--results={folder / 'results'}", f"--page={folder / 'study.md'}"]
    return ["--config", str(ROOT / "studies/smoke.yaml"), *places, *more]


def start(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "scripts/study.py", *arguments(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_study_that_is_killed_goes_on_and_measures_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results/copying.json"
    process = start(tmp_path)
    while not results.exists():  # the first cell stands, others are at work
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = json.loads(results.read_text())["cells"]
    assert 1 <= len(left) < 4
    process = start(tmp_path)
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    assert "all cells stand" in said and said.count("copying/") == 4 - len(left)
    cells = json.loads(results.read_text())["cells"]
    assert [cell for cell in cells if cell in left] == sorted(left, key=lambda cell: str(cell["label"]))
    assert {(cell["kind"], cell["is_try"]) for cell in cells} == {
        (kind, is_try) for kind in ("standard", "shared_diff") for is_try in (True, False)
    }
    for cell in cells:
        first = cell["figures"]["stage_1_steps"]
        assert cell["figures"]["steps_to_7.8"] == first and first % 3 == 0 and first < 20  # it waited no longer
        assert [step for step, _ in cell["curve"]] == list(range(3, first + 1, 3))
        assert cell["curve"][-1][1] <= 7.8 < min(loss for _, loss in cell["curve"][:-1])
        assert cell["figures"]["trained_tokens"] == 256 * (first + 3)
        assert abs(cell["figures"]["held_out.loss"] - cell["figures"]["validation_loss"]) < 1e-3
        assert cell["figures"]["skipped_steps"] == 0 and cell["commit"] and cell["versions"]["torch"]
    page = (tmp_path / "study.md").read_text()
    assert "`copying.tiny.shared_diff.standard`" in page

    shutil.rmtree(tmp_path / "work")
    before = results.read_bytes()
    main(arguments(tmp_path))
    assert results.read_bytes() == before and not (tmp_path / "work").exists()
    assert (tmp_path / "study.md").read_text() == page
    capsys.readouterr()
    main(arguments(tmp_path, "--trace", cells[0]["label"]))
    traced = capsys.readouterr().out
    assert "-m pretrain --config" in traced and "scripts/export.py" in traced and "no longer there" in traced
    main(arguments(tmp_path, "--list"))
    assert "all: 0 cells, about 0 min left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only=copyin"], "--only: unknown part 'copyin'; did you mean 'copying'"),
        (["--trace=copying/nobody"], "--trace: no cell and no claim is called 'copying/nobody'"),
        (["--jobs=0"], "--jobs: must be at least 1"),
        (["--wrok=x"], "--wrok: unknown key 'wrok'; did you mean 'work'"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments(tmp_path, *more))


@pytest.mark.parametrize("name", ["desk", "paper", "smoke"])
def test_the_studies_that_come_along_have_plans_for_all_their_cells(name: str, tmp_path: Path) -> None:
    config = parse_config(StudyConfig, ["--config", str(ROOT / f"studies/{name}.yaml")], "test")
    entries = Grid(config, Results(tmp_path)).entries()
    assert len({entry.plan.cell.label for entry in entries}) == len(entries)
    assert {entry.plan.cell.part for entry in entries} == {part.name for part in config.parts}
