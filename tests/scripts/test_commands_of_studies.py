"""Commands that a study runs: what their log holds, how they fail, how they are told that it is enough."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.retrieval.commands import CommandError, run_logged
from tests.conftest import ROOT
from tests.processes import is_alive


def script(folder: Path, text: str) -> str:
    path = folder / "command.py"
    path.write_text(text)
    return str(path)


def test_the_log_holds_the_command_and_what_it_printed_in_its_place(tmp_path: Path) -> None:
    log = tmp_path / "logs/one.log"
    command = [script(tmp_path, "import sys, torch; print(sys.argv[1:], torch.get_num_threads())"), "a b", "7"]
    run_logged(command, log, "one", threads=3)
    run_logged(command, log, "one", threads=1)
    assert log.read_text().splitlines()[1::2] == ["['a b', '7'] 3", "['a b', '7'] 1"]


def test_a_command_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    command = script(tmp_path, "import sys; print('fine so far'); sys.exit('the disk is full')")
    with pytest.raises(CommandError, match=r"trial: the disk is full \(.*x\.log\)"):
        run_logged([command], tmp_path / "x.log", "trial")


def test_a_command_ends_when_it_is_enough(tmp_path: Path) -> None:
    command = script(
        tmp_path, f"import pathlib, time; pathlib.Path({str(tmp_path / 'there')!r}).touch(); time.sleep(99)"
    )
    began = time.monotonic()
    run_logged([command], tmp_path / "x.log", "endless", enough=(tmp_path / "there").exists)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_commands_end_with_who_asked_for_them(tmp_path: Path, kill: signal.Signals) -> None:
    """Two of them, which their server would outlive."""
    endless = "import os, pathlib, time; pathlib.Path('pid%d' % os.getpid()).touch(); time.sleep(99)"
    asking = (
        "import threading; from pathlib import Path; from scripts.retrieval.commands import run_logged\n"
        f"run = lambda: run_logged([{script(tmp_path, endless)!r}], Path('x.log'), 'endless')\n"
        "threading.Thread(target=run).start(); run()"
    )
    asker = subprocess.Popen([sys.executable, "-c", asking], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while len(found := list(tmp_path.glob("pid*"))) < 2:
        assert asker.poll() is None
        time.sleep(0.05)
    asker.send_signal(kill)
    asker.wait()
    latest = time.monotonic() + 30
    while any(is_alive(int(file.name.removeprefix("pid"))) for file in found):
        assert time.monotonic() < latest
        time.sleep(0.05)
