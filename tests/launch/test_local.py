"""`python -m launch local`: the training on this machine, its exit status, and how it goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import to_yaml
from launch import local
from launch.local import STOPPED_STATUS, threads_per_process
from pretrain import run_lock
from pretrain.checkpoint.layout import POINTER
from pretrain.config import TrainConfig
from pretrain.resilience.attempts import ATTEMPT_VARIABLE, next_attempt, read_attempts
from pretrain.run_lock import RunLock
from tests.pretrain.test_run import config_for, losses, train
from tests.processes import environment_of
from tests.world import run_world

STEPS = 70


@pytest.fixture(autouse=True)
def _settings_for_ranks_end_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher in this process sets for its ranks is not set for later tests."""
    for name in (ATTEMPT_VARIABLE, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Path:
    """A run of some seconds."""
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(replace(config_for(corpus, tmp_path / "run"), train=TrainConfig(steps=STEPS))))
    return path


def start(config: Path, *arguments: str) -> "subprocess.Popen[str]":
    """As a user starts it: numpy may have threads of its own, which must not take the signals."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, "-m", "launch", "local", f"--config={config}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "OPENBLAS_NUM_THREADS": "2"},
    )


def test_a_stopped_run_goes_on_with_the_same_losses(config: Path, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(config, "--nproc=2")
    _wait_for_step(run, 5)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == STOPPED_STATUS
    assert "interrupted by the user; the same command goes on from there" in out
    second = start(config, "--nproc=2")
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert f"resuming at step {read_attempts(run)[0].step}" in out
    assert [record.outcome for record in read_attempts(run)] == ["stopped", "finished"]
    whole = replace(config_for(corpus, tmp_path / "whole"), train=TrainConfig(steps=STEPS))
    run_world(2, train, whole)
    assert losses(run) == losses(tmp_path / "whole")


def test_a_second_start_leaves_the_first_alone(config: Path, tmp_path: Path) -> None:
    """By the launcher and without one; then kill -9 of everything, and the run goes on."""
    run = tmp_path / "run"
    first = start(config, "--nproc=2")
    _wait_for_step(run, 5)
    _wait_for_checkpoint(run)
    ranks = [_rank(first.pid, rank) for rank in range(2)]
    os.kill(ranks[0], signal.SIGSTOP)  # it would be done before the others have imported torch
    second = start(config, "--nproc=2")
    plain = subprocess.run(
        [sys.executable, "-m", "pretrain", f"--config={config}"], capture_output=True, text=True, timeout=120
    )
    out, err = second.communicate(timeout=60)
    for status, said in ((second.returncode, err), (plain.returncode, plain.stderr)):
        assert status == 2, out + said
        assert f"run_dir: {run} is in use by process {ranks[0]} on {os.uname().nodename}, since " in said
        assert len(said.splitlines()) == 1
    assert first.poll() is None
    assert [record.outcome for record in read_attempts(run)] == [None]
    for process in (first.pid, *ranks):
        os.kill(process, signal.SIGKILL)
    first.communicate(timeout=60)
    third = start(config, "--nproc=2")
    out, _ = third.communicate(timeout=120)
    assert third.returncode == 0
    assert "resuming at step" in out
    assert len(losses(run)) == STEPS


def test_a_killed_rank_ends_the_run_or_starts_it_again(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = start(config, "--nproc=2", "--tries=2")
    _wait_for_step(run, 5)
    os.kill(_rank(launcher.pid, 1), signal.SIGKILL)
    out, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0
    assert "rank 1 on " in out
    assert "was killed by SIGKILL; starting again" in out
    assert len(losses(run)) == STEPS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nproc=2", "--model.rnk=3"], "unknown key 'model.rnk'; did you mean 'model.rank'?"),
        (["--nproc=3"], "batch.global_size: must be a multiple of"),
        (["--nproc=0"], "--nproc: must be at least 1, is 0"),
        (["--nproc=2", "--data.train=[{path: /nowhere}]"], "data.train: /nowhere/manifest.json: no such file"),
        (["--nproc=2", "--data.validation=/nowhere"], "data.validation: /nowhere/manifest.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(config: Path, arguments: list[str], said: str, tmp_path: Path) -> None:
    launcher = start(config, *arguments)
    out, error = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    assert not out
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_cores_are_shared_out() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_process(1) == cores
    assert threads_per_process(1000) == 1


def _wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not (records := read_attempts(run)) or (records[-1].step or 0) < step:
        assert time.monotonic() < deadline, f"step {step} was never reached"
        time.sleep(0.02)


def _wait_for_checkpoint(run: Path) -> None:
    """The first one is written in the background, and may take longer than some steps."""
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / POINTER).exists():
        assert time.monotonic() < deadline, "no checkpoint was ever written"
        time.sleep(0.02)


def _rank(launcher: int, rank: int) -> int:
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"\0RANK=%d\0" % rank in environment_of(int(child)):
            return int(child)
    raise AssertionError(f"no rank {rank}")


def test_more_processes_than_cores_are_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    monkeypatch.setattr(local, "run_node", lambda *arguments: 2)
    assert local.main(["--nproc=2", f"--config={config}"]) == 2
    assert "WARNING: --nproc: 2 processes will share 1 core\n" in capsys.readouterr().err


def test_a_start_that_another_one_beat_leaves_the_runs_record_alone(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked and seen nobody; the ranks of one find the lock taken."""
    first = next_attempt(tmp_path / "run")
    first.launch(job="first")
    first.start(0)
    monkeypatch.setattr(run_lock, "GRACE_SECONDS", 0.1)
    with RunLock(tmp_path / "run", is_main=True) as lock:

        def refused(*arguments: object) -> int:
            lock.take()
            return 2

        monkeypatch.setattr(local, "run_node", refused)
        assert local.main([f"--config={config}"]) == 2
    assert [record.number for record in read_attempts(tmp_path / "run")] == [1]
