"""The order of work, what is kept when, and what a killed study finds again; nothing is trained here."""

import json
import threading
from pathlib import Path

import pytest

from common.errors import InputError
from scripts.replication.config import StudyConfig
from scripts.replication.estimates import Estimator
from scripts.replication.grid import Grid
from scripts.replication.measuring import Lock
from scripts.replication.plans import Plan
from scripts.replication.rows import Results, Row
from scripts.replication.working import work
from tests.scripts.replication.grids import made_up, study, with_part


def run(config: StudyConfig, measured: list[str], jobs: int = 2, stop_at: str | None = None) -> None:
    """A whole study whose cells cost nothing."""
    guard = threading.Lock()

    def measure(plan: Plan, lock: Lock) -> Row:
        with guard:
            if plan.cell.label == stop_at:
                raise InputError(f"{plan.cell.label}: the machine went away")
            measured.append(plan.cell.label)
        return made_up(plan, lambda plan: 5.0 + (plan.cell.rate or 0.0))

    results = Results(Path(config.results))
    work(Grid(config, results), results, Estimator(config), measure, jobs)


def test_tries_come_first_and_every_cell_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, measured = study(tmp_path), list[str]()
    run(config, measured, jobs=1)
    assert len(measured) == len(set(measured)) == 9 + 81 + 10
    assert all("/try-" in label for label in measured[:9])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(measured) and "all cells stand" in lines[-1]
    assert lines[0].startswith("[1/100] scaling/plain/s1/240/-/77/try-0.001: validation_loss 5.001, 7 s; about ")


def test_what_stands_is_never_measured_again_whatever_became_of_its_runs(tmp_path: Path) -> None:
    config, measured = study(tmp_path), list[str]()
    run(config, measured)
    again = list[str]()
    run(config, again)
    assert again == []
    assert not Path(config.work).exists()
    path = Path(config.results) / "ablations.json"
    document = json.loads(path.read_text())
    (lost,) = [cell for cell in document["cells"] if cell["label"] == "ablations/ours/s2/480/no_head_norm/7"]
    document["cells"].remove(lost)
    path.write_text(json.dumps(document))
    run(config, again)
    assert again == [lost["label"]]
    assert lost in json.loads(path.read_text())["cells"]
    run(with_part(config, "ablations", seeds=[5, 7, 11]), again)
    assert sorted(again[1:]) == sorted(label for label in again[1:] if label.endswith("/11")) and len(again) == 1 + 5


def test_a_cell_that_fails_ends_the_study_and_what_was_measured_stays(tmp_path: Path) -> None:
    config, measured = study(tmp_path), list[str]()
    stop_at = "scaling/older/s2/480/-/1"
    with pytest.raises(InputError, match=f"{stop_at}: the machine went away"):
        run(config, measured, stop_at=stop_at)
    assert 9 < len(measured) < 50
    rest = list[str]()
    run(config, rest)
    assert sorted(measured + rest) == sorted(set(measured + rest)) and len(measured + rest) == 100


def test_cells_with_one_run_do_not_train_it_at_the_same_time(tmp_path: Path) -> None:
    config = with_part(study(tmp_path), "ablations", seeds=[1], tokens=[480], tasks=["held_out"])
    inside: set[str] = set()
    clashes: list[str] = []

    def measure(plan: Plan, lock: Lock) -> Row:
        key = plan.stages[0].key
        with lock(key):
            clashes.extend([key] if key in inside else [])
            inside.add(key)
            threading.Event().wait(0.001)
            inside.remove(key)
        return made_up(plan, lambda plan: 5.0)

    results = Results(Path(config.results))
    work(Grid(config, results), results, Estimator(config), measure, 16)
    assert clashes == []


def test_estimates_learn_from_what_was_measured(tmp_path: Path) -> None:
    config = study(tmp_path)
    results = Results(Path(config.results))
    plans = {entry.plan.cell.label: entry.plan for entry in Grid(config, results).entries()}
    estimator = Estimator(config)
    small, large = plans["scaling/plain/s1/240/-/1"], plans["scaling/plain/s2/1200/-/1"]
    assert estimator.seconds([small]) == pytest.approx(240 / 100 + 15)
    estimator.learn([made_up(plans["scaling/plain/s1/480/-/2"], lambda plan: 5.0)])  # 480 tokens in 4 s, 3 s beside
    assert estimator.seconds([small]) == pytest.approx(240 / 120 + 3)
    assert estimator.seconds([plans["scaling/older/s1/240/-/1"]]) == pytest.approx(240 / 120 + 3)
    assert estimator.seconds([large]) == pytest.approx(1200 / 50 + 3)
    assert estimator.seconds([small, small]) == pytest.approx(240 / 120 + 2 * 3)  # one run
