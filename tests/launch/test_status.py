"""`python -m launch status`: readable from the run's folder alone, while the run writes into it."""

import json
from pathlib import Path

import pytest

from common.cli import run_command
from launch.__main__ import main
from launch.status import describe
from pretrain.resilience.attempts import SKIPPED_FILE, Outcome, next_attempt, read_attempts
from pretrain.resilience.rollback import ROLLBACKS_FILE
from pretrain.standing import _silence, read_status


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in its second attempt, half of a line just written."""
    (tmp_path / "config.yaml").write_text("train: {steps: 300}\n")
    line = {"tokens": 40960, "tokens_per_second": 2000.0, "step_seconds": 2.0}
    gpu = {"model_flops_utilization": 0.4, "peak_memory_bytes": 7 << 29, "reserved_memory_bytes": 5 << 30}
    newest = {"mean_loss": 5.375, "learning_rate": 3e-4, "grad_norm": 1.25, **gpu, **line}
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": 10, "loss": 5.5, **line})
        + "\n"
        + json.dumps({"step": 10, "validation_loss": 5.75})
        + "\n"
        + json.dumps({"step": 20, "loss": 5.25, **newest})
        + '\n{"step": 30, "lo'
    )
    (tmp_path / SKIPPED_FILE).write_text('{"step": 7}\n')
    rollback = {"time": 1.0, "back_to_step": 3, "skipped_steps": [7], "samples": [[48, 55]]}
    (tmp_path / ROLLBACKS_FILE).write_text(json.dumps([rollback]))
    (tmp_path / "evaluations").mkdir()
    evaluation = {"model": {"step": 20}, "tasks": {"sample": {"metrics": {}, "text": "def \n  value"}}}
    (tmp_path / "evaluations/20.json").write_text(json.dumps(evaluation))
    for step in (10, 20):
        folder = tmp_path / f"checkpoints/step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    (tmp_path / "checkpoints/step_00000030.abc.partial").mkdir()
    first = next_attempt(tmp_path)
    first.launch(job="12", nodes=["node1", "node2"])
    first.start(0)
    first.progress(17)
    first.end(Outcome.CRASHED, "rank 2 on node2 was killed by SIGKILL")
    second = next_attempt(tmp_path)
    second.launch(job="12", nodes=["node1", "node3"])
    second.start(10)
    second.progress(24)
    return tmp_path


def test_a_running_run_tells_where_it_stands(run: Path) -> None:
    status = read_status(run)
    assert (status.state, status.step, status.steps, status.checkpoint) == ("running", 24, 300, 20)
    assert (status.loss, status.validation_loss, status.tokens) == (5.25, 5.75, 40960)
    assert status.seconds_left == 276 * 2.0
    text = describe(status)
    for expected in [
        "step         24 of 300",
        "loss         5.2500 (held-out 5.7500)",
        "mean loss    5.3750 since the line before",
        "rate         0.0003",
        "grad norm    1.250",
        "speed        2,000 tokens/s, MFU 40.0%",
        "memory       3.5 GiB, 5.0 reserved, of rank 0",
        "time left    0:09:12",
        "checkpoint   step 20",
        "skipped      1 steps",
        "rollbacks    1, see rollbacks.json",
        'newest text  "def \\n  value"',
        "starts       2",
        "from step 0 to 17  crashed: rank 2 on node2 was killed by SIGKILL",
        "from step 10 to 24  no end on record",
    ]:
        assert expected in text


def test_a_run_without_a_sign_of_life_is_called_quiet(run: Path) -> None:
    an_hour_later = (run / "attempts/0002/progress").stat().st_mtime + 3600
    status = read_status(run, now=an_hour_later)
    assert status.state == "quiet"
    assert "last sign    1:00:00 ago" in describe(status)


def test_a_file_that_goes_while_it_is_looked_at_is_no_sign(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert _silence(run, read_attempts(run), now=0.0) == 0.0


def test_an_ended_run_says_how(run: Path) -> None:
    third = next_attempt(run)
    third.launch(job="12", nodes=[])
    third.end(Outcome.FINISHED, "all 300 steps are done")
    assert read_status(run).state == "finished (all 300 steps are done)"


def test_a_run_that_has_not_come_to_a_step_yet_can_be_asked(tmp_path: Path) -> None:
    next_attempt(tmp_path).launch(job="12", nodes=["node1"])
    text = describe(read_status(tmp_path))
    assert "running" in text
    assert "checkpoint   none yet" in text


def test_as_json_it_is_all_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["status", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["step"] == 24
    assert [attempt["nodes"] for attempt in told["attempts"]] == [["node1", "node2"], ["node1", "node3"]]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_run_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run_command(main, ["status", str(tmp_path / name)]) == 2
    assert str(tmp_path / name) in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["statsu"]) == 2
    assert "launch statsu: no such command; did you mean 'status'?" in capsys.readouterr().err
