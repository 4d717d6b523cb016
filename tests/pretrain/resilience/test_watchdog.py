"""The hang watchdog: quiet while the run moves; when it does not, it says who waits for whom and ends the rank."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pretrain.resilience.attempts import HUNG_STATUS
from pretrain.resilience.hang import explain_hang, name_ranks
from pretrain.resilience.watchdog import Watchdog
from tests.world import run_world


class Ended:
    """Takes the exit status instead of exiting."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.event = threading.Event()

    def __call__(self, status: int) -> None:
        self.status = status
        self.event.set()


def test_a_disk_that_refuses_the_report_does_not_keep_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rank_00000.hang.json").mkdir()
    ended = Ended()
    watchdog = Watchdog(tmp_path, 0, 0.2, ended)
    assert ended.event.wait(10) and ended.status == HUNG_STATUS
    watchdog.stop()
    assert "Is a directory; this rank leaves no report" in capsys.readouterr().out


def test_a_run_that_moves_is_left_alone(tmp_path: Path) -> None:
    ended = Ended()
    watchdog = Watchdog(tmp_path, rank=0, seconds=0.4, end=ended)
    for step in range(8):
        time.sleep(0.1)
        watchdog.beat(step)
    watchdog.stop()
    time.sleep(0.6)
    assert ended.status is None
    assert not list(tmp_path.iterdir())


def test_zero_seconds_turn_it_off(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, seconds=0)
    watchdog.beat(1)
    watchdog.stop()
    assert not list(tmp_path.iterdir())


def test_silence_leaves_stacks_and_a_report_and_a_status_of_its_own(tmp_path: Path) -> None:
    ended = Ended()
    watchdog = Watchdog(tmp_path, rank=3, seconds=0.3, end=ended)
    watchdog.beat(17)
    assert ended.event.wait(10)
    watchdog.stop()
    assert ended.status == HUNG_STATUS
    assert "test_watchdog.py" in (tmp_path / "rank_00003.stacks").read_text()
    report = json.loads((tmp_path / "rank_00003.hang.json").read_text())
    assert (report["rank"], report["step"], report["collective"]) == (3, 17, None)
    assert 0.3 < report["silence"] < 10


def test_a_rank_whose_interpreter_is_stuck_is_ended_as_well(tmp_path: Path) -> None:
    program = f"""
import ctypes, pathlib
from pretrain.resilience import watchdog
watchdog.BACKSTOP_SECONDS = 0.5
watchdog.Watchdog(pathlib.Path({str(tmp_path)!r}), rank=0, seconds=0.5)
ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter's lock
"""
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], check=False)
    assert result.returncode == 1
    assert time.monotonic() - began < 30
    assert "Timeout" in (tmp_path / "rank_00000.stacks").read_text()


def test_the_rank_that_keeps_the_others_waiting_is_named(tmp_path: Path) -> None:
    run_world(2, _wait_for_each_other, tmp_path)
    reports = [json.loads((tmp_path / f"rank_0000{rank}.hang.json").read_text()) for rank in range(2)]
    text = explain_hang(reports, {"hosts": ["node1", "node2"]})
    assert text.startswith(
        "no progress after step 5: rank 0 waited in all_reduce over ranks 0-1; rank 1 on node2 had not"
    )
    assert "resilience/test_watchdog.py" in text
    assert "in _stuck" in text
    assert "all_reduce" in (tmp_path / "rank_00000.stacks").read_text()


def _wait_for_each_other(folder: Path) -> None:
    """Rank 1 comes to the all-reduce only when both watchdogs have fired."""
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    ended = Ended()
    watchdog = Watchdog(folder, rank, seconds=1.0, end=ended)
    watchdog.beat(5)
    if rank == 1:
        _stuck(ended)
    dist.all_reduce(torch.ones(1))
    assert ended.event.wait(10)
    watchdog.stop()


def _stuck(ended: Ended) -> None:
    ended.event.wait(20)
    time.sleep(1.0)


def report(rank: int, collective: dict[str, Any] | None, started: int = 7) -> dict[str, Any]:
    groups = [{"name": "world", "ranks": [0, 1, 2, 3], "started": started}]
    return {
        "rank": rank,
        "step": 57,
        "time": 1000.0 + 7 * rank,  # the nodes' clocks differ
        "silence": 30.0 + rank / 10,
        "collective": collective,
        "place": "data/x.py:1 in f",
        "groups": groups,
    }


def test_a_rank_that_does_not_answer_is_named_with_its_node() -> None:
    waiting = {"name": "all_reduce", "ranks": [0, 1, 2, 3], "partner": None}
    start = {"hosts": ["node1", "node1", "node2", "node2"]}
    text = explain_hang([report(rank, waiting) for rank in (0, 1, 2)], start)
    assert text == (
        "no progress after step 57: ranks 0-2 waited in all_reduce over ranks 0-3; "
        "rank 3 on node2 did not answer in time: stopped, or cut off"
    )
    woken = report(3, None) | {"silence": 36.0}
    assert explain_hang([report(rank, waiting) for rank in (0, 1, 2)] + [woken], start) == text


def test_a_partner_of_a_pipeline_is_named() -> None:
    waiting = {"name": "recv", "ranks": [0, 1], "partner": 1}
    text = explain_hang([report(0, waiting), report(1, None, started=6)], {"hosts": ["a", "b"]})
    assert "rank 0 waited in recv with rank 1 over ranks 0-1" in text
    assert "rank 1 on b had not come that far: it was at data/x.py:1 in f" in text


def test_ranks_are_named_in_ranges() -> None:
    assert name_ranks([3]) == "rank 3"
    assert name_ranks([0, 1, 2, 5, 7, 8]) == "ranks 0-2, 5 and 7-8"
    assert name_ranks([0, 3], {0: "a", 3: "b"}) == "ranks 0 and 3 on a, b"
