"""torchrun under our launcher: signals reach the ranks, deaths are named, the exit status is the training's."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import InputError
from launch import torchrun
from launch.torchrun import NodePlan, describe_status, plan_from_slurm, status_of
from pretrain.resilience.attempts import Attempt, read_attempts
from tests.processes import is_alive


def start(what: str, folder: Path) -> "subprocess.Popen[str]":
    program = ["tests.launch.rank_program", what, str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", "launch", "torchrun", "--processes=2", f"--run={folder}", "--", *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
    )


def ranks_of(folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while True:
        pids = [int(text) for path in sorted(folder.glob("pid_*")) if (text := path.read_text())]
        if len(pids) == 2:
            return pids
        assert time.monotonic() < deadline, "the ranks never started"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_lets_every_rank_save_first(number: signal.Signals, tmp_path: Path) -> None:
    node = start("train", tmp_path)
    ranks_of(tmp_path)
    node.send_signal(number)
    out, _ = node.communicate(timeout=60)
    assert node.returncode == 0
    assert sorted(line for line in out.splitlines() if "saved" in line) == ["rank 0 saved", "rank 1 saved"]
    [log] = (tmp_path / "logs").glob("node_*.log")
    assert log.read_text() == out


def test_a_signal_that_comes_before_the_ranks_can_take_it_waits_for_them(tmp_path: Path) -> None:
    node = start("train", tmp_path)
    while not (tmp_path / "logs").exists():
        time.sleep(0.02)
    node.send_signal(signal.SIGUSR1)  # torchrun is still being imported
    out, _ = node.communicate(timeout=60)
    assert node.returncode == 0
    assert out.count("saved") == 2


@pytest.mark.parametrize(
    ("what", "status", "how"), [("fail", 3, "ended with exit status 3"), ("kill", 137, "was killed by SIGKILL")]
)
def test_a_rank_that_dies_is_named_and_its_status_returned(what: str, status: int, how: str, tmp_path: Path) -> None:
    (tmp_path / "attempts/0000").mkdir(parents=True)
    node = start(what, tmp_path)
    out, _ = node.communicate(timeout=60)
    assert node.returncode == status
    host = os.uname().nodename
    assert out.splitlines() == [f"rank 1 on {host} {how}"], "and none of torchrun's own report"
    [record] = read_attempts(tmp_path)
    [report] = record.files("node_*.json")
    assert report["host"] == host
    assert {"rank": 1, "status": status, "how": how} in report["failures"]


def test_a_killed_launcher_leaves_no_rank(tmp_path: Path) -> None:
    node = start("train", tmp_path)
    pids = ranks_of(tmp_path)
    node.kill()
    node.communicate()
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "orphaned ranks"
        time.sleep(0.05)


def test_the_place_among_the_nodes_comes_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_NODEID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert plan_from_slurm(8) == NodePlan(8)
    assert "--standalone" in NodePlan(8).flags()
    monkeypatch.setenv("SLURM_NNODES", "16")
    with pytest.raises(InputError, match="SLURM_NODEID, MASTER_ADDR, MASTER_PORT must be set for 16 nodes"):
        plan_from_slurm(8)
    for name, value in (("SLURM_NODEID", "3"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "12091")):
        monkeypatch.setenv(name, value)
    assert plan_from_slurm(8).flags() == [
        "--nproc-per-node=8",
        "--max-restarts=0",
        "--nnodes=16",
        "--node-rank=3",
        "--master-addr=node1",
        "--master-port=12091",
    ]


def test_statuses_are_a_shells() -> None:
    assert [status_of(code) for code in (0, 3, -9)] == [0, 3, 137]
    assert describe_status(76) == "was ended by the hang watchdog"
    assert [describe_status(-number) for number in (9, 35)] == ["was killed by SIGKILL", "was killed by signal 35"]


def test_a_full_disk_does_not_hide_how_a_rank_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(attempt: Attempt, host: str, failures: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"node_{host}.json")

    monkeypatch.setattr(Attempt, "node_failed", refuse)
    assert torchrun._report([(5, SimpleNamespace(exitcode=76))], tmp_path) == 76
    out, err = capsys.readouterr()
    assert "No space left on device; the attempt's record does not tell how its ranks ended" in out
    assert err == f"rank 5 on {os.uname().nodename} was ended by the hang watchdog\n"
