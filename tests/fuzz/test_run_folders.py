"""Run folders with other content than a run writes: every reader gives what it says, or one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.status import describe
from launch.verdict import Decision, attempts_of, close_attempt, decide
from pretrain.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pretrain.places import LOSS_FILE
from pretrain.resilience.attempts import Attempt, Outcome, next_attempt
from pretrain.resilience.rollback import ROLLBACKS_FILE, roll_back, with_rollbacks
from pretrain.sinks.metrics_file import MetricsFile
from pretrain.standing import read_status
from scripts.compare import compare
from scripts.reporting.page import report_page
from scripts.reporting.runs import read_run
from scripts.summary import summary
from tests.fuzz.json_values import changed, changes
from tests.fuzz.rules import answer, fuzz
from tests.pretrain.test_run import config_for, train
from tests.world import run_world

DOCUMENTS = [
    "attempts/0000/end.json",
    "attempts/0000/start.json",
    "attempts/0007/end.json",
    "attempts/0007/launch.json",
    "evaluations/a.json",
    "rollbacks.json",
]
FILES = [*DOCUMENTS, "attempts/0007/progress", "checkpoints/latest", "config.yaml", "metrics.jsonl"]
ESTIMATE = {"value": 0.5, "low": 0.25, "high": None, "count": 3, "method": "wilson"}


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps with everything that may lie in its folder; its last step was rolled back."""
    config = config_for(
        corpus,
        tmp_path_factory.mktemp("fuzzed") / "run",
        train=TrainConfig(steps=5),
        checkpoint=CheckpointConfig(every=2, keep=0),
        evaluation=EvaluationConfig(every=3, batches=1),
    )
    run_world(1, train, config)
    attempt = Attempt(config.run_folder, 7)
    attempt.launch(job="job 7", nodes=["a", "b"], restarts=0)
    attempt.start(2, hosts=["a", "b"], topology="tensor 1")
    attempt.progress(5)
    attempt.end(Outcome.ROLLED_BACK, "1 step skipped")
    roll_back(config.run_folder, [4], [[32, 39]])
    evaluations = config.run_folder / "evaluations"
    evaluations.mkdir()
    task = {"metrics": {"share": ESTIMATE}, "settings": {}, "details": {}, "seed": 3, "picture": "a.png"}
    (evaluations / "a.json").write_text(json.dumps({"model": {}, "tasks": {"needles": task}}))
    return config.run_folder


def readers(run: Path) -> dict[str, Callable[[], Any]]:
    """What reads a run folder. Drawing is left out: it takes a second, and draws what these have read."""
    return {
        "status": lambda: describe(read_status(run)),
        "summary": lambda: summary(run, None),
        "report": lambda: report_page([read_run(run)]),
        "compare": lambda: compare(run, run, 1e-5),
        "start": lambda: with_rollbacks(RunConfig(run_dir=str(run))),
        "metrics": lambda: MetricsFile(run / LOSS_FILE, resumed_at=4).close(),
        "next attempt": lambda: next_attempt(run),
        "verdict": lambda: verdict(run),
    }


def verdict(run: Path) -> Decision | None:
    if not attempts_of(run, "job 7") or (run / "attempts/0007/end.json").is_dir():  # nobody can write there
        return None
    close_attempt(run, "job 7", status=1)
    return decide(run, "job 7", tries=3)


def check(run: Path) -> None:
    for call in readers(run).values():
        answer(call)


def fresh(run: Path) -> Path:
    copy = run.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    return copy


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.reporting.page.render", lambda draw: b"")


def test_the_whole_folder_is_read_by_all(run: Path) -> None:
    for name, call in readers(fresh(run)).items():
        assert answer(call)[1] is None, name
    assert "rolled back" in describe(read_status(run))
    assert [(skip.first, skip.last) for skip in with_rollbacks(RunConfig(run_dir=str(run))).data.skip] == [(32, 39)]
    assert (run / ROLLBACKS_FILE).exists()


@fuzz(quick=90, long=900)
@given(name=st.sampled_from(DOCUMENTS), change=changes())
def test_other_values(name: str, change: Any, run: Path) -> None:
    folder = fresh(run)
    document = json.loads((folder / name).read_text())
    for place, value in change:
        document = changed(document, place, value)
    (folder / name).write_text(json.dumps(document))
    check(folder)


@fuzz(quick=60, long=600)
@given(number=st.integers(0, 5), change=changes())
def test_other_metrics(number: int, change: Any, run: Path) -> None:
    folder = fresh(run)
    lines = (folder / LOSS_FILE).read_text().splitlines()
    document = json.loads(lines[number % len(lines)])
    for place, value in change:
        document = changed(document, place, value)
    lines[number % len(lines)] = json.dumps(document)
    (folder / LOSS_FILE).write_text("\n".join(lines) + "\n")
    check(folder)


@fuzz(quick=90, long=900)
@given(name=st.sampled_from(FILES), at=st.floats(0, 1), cut=st.integers(0, 40), put=st.binary(max_size=40))
def test_other_bytes(name: str, at: float, cut: int, put: bytes, run: Path) -> None:
    folder = fresh(run)
    content = (folder / name).read_bytes()
    place = int(at * len(content))
    (folder / name).write_bytes(content[:place] + put + content[place + cut :])
    check(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["none", "empty", "folder", "link to itself"])
def test_another_kind_of_file(name: str, kind: str, run: Path) -> None:
    folder = fresh(run)
    (folder / name).unlink()
    if kind == "empty":
        (folder / name).touch()
    elif kind == "folder":
        (folder / name).mkdir()
    elif kind == "link to itself":
        (folder / name).symlink_to(name)
    check(folder)
