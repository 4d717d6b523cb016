"""The lock on a run folder: one start at a time, whatever ends the one before, and whichever node it was on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import InputError
from common.file_lock import is_locked, try_lock
from pretrain import run_lock
from pretrain.run_lock import LOCK_FILE, RunLock, read_holder, refuse_if_held
from tests.other_user import as_stranger, shared_place

HOLDER = """
import sys, time
from pathlib import Path
from pretrain.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]), is_main=True)
lock.take()
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("GRACE", 0.5), ("BEAT", 0.05), ("WATCH", 0.5), ("PATIENCE", 1.0)):
        monkeypatch.setattr(run_lock, f"{name}_SECONDS", seconds)


@contextmanager
def held_by_a_process(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def take(folder: Path) -> None:
    with RunLock(folder, is_main=True) as lock:
        lock.take()


def as_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)


def test_a_second_start_is_one_line_that_says_who_trains_there(tmp_path: Path) -> None:
    with held_by_a_process(tmp_path) as holder:
        host = os.uname().nodename
        for start in (take, refuse_if_held):
            with pytest.raises(
                InputError, match=rf"run_dir: {tmp_path} is in use by process {holder.pid} on {host}, since 20\d\d-"
            ) as refusal:
                start(tmp_path)
            assert "\n" not in str(refusal.value)
        assert read_holder(tmp_path)["process"] == holder.pid


def test_two_locks_of_one_process_exclude_each_other_and_reading_gives_nothing_up(tmp_path: Path) -> None:
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        lock.take()  # has it already
        (tmp_path / LOCK_FILE).read_bytes()
        read_holder(tmp_path)
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)
        with pytest.raises(InputError, match="is in use by"):
            refuse_if_held(tmp_path)
    refuse_if_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    take(tmp_path)


def test_kill_9_gives_the_lock_up_at_once(tmp_path: Path) -> None:
    with held_by_a_process(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        began = time.monotonic()
        take(tmp_path)
        assert time.monotonic() - began < 2


def test_a_killed_process_that_is_slow_to_go_is_waited_for(tmp_path: Path) -> None:
    with held_by_a_process(tmp_path) as holder:
        threading.Timer(0.2, holder.kill).start()
        take(tmp_path)


def test_a_stopped_process_keeps_the_lock(tmp_path: Path) -> None:
    with held_by_a_process(tmp_path) as holder:
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)


def test_only_rank_0_and_only_folders_that_are_there_where_nothing_is_to_be_made(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", is_main=True) as lock:
        lock.take(make=False)
        assert not (tmp_path / "run").exists()
    with RunLock(tmp_path, is_main=False) as lock:
        lock.take()
        assert list(tmp_path.iterdir()) == []


def test_many_starts_at_once_leave_one(tmp_path: Path) -> None:
    taken, refused, over = list[int](), list[str](), threading.Event()

    def start(number: int) -> None:
        with RunLock(tmp_path, is_main=True) as lock:
            try:
                lock.take()
            except InputError as error:
                refused.append(str(error))
                return
            taken.append(number)
            over.wait(20)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while len(refused) < 7:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_beat_from_another_node_counts_where_the_kernel_knows_of_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that keeps locks to one node."""
    here = os.uname().nodename
    as_host(monkeypatch, "node-a")
    monkeypatch.setattr(run_lock, "try_lock", lambda file: True)
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        as_host(monkeypatch, here)
        with pytest.raises(InputError, match=r"is in use by process .* on node-a"):
            take(tmp_path)


def test_two_machines_of_one_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of containers; on a file system that keeps locks to one node."""
    monkeypatch.setattr(run_lock, "try_lock", lambda file: True)
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        monkeypatch.setattr(run_lock, "BOOT_FILE", tmp_path / "boot_id")
        (tmp_path / "boot_id").write_text("another kernel\n")
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)


@pytest.mark.parametrize("left_by", ["nobody", "an earlier version"])
def test_another_user_cannot_lock_the_run_out(tmp_path: Path, left_by: str) -> None:
    """A lock for reading, which needs no right to write, would keep the holder of the folder from starting."""
    with shared_place(0o755) as run:
        if left_by == "an earlier version":
            (run / LOCK_FILE).touch(0o644)
        with RunLock(run, is_main=True) as lock:
            lock.take()
            assert not (run / LOCK_FILE).stat().st_mode & 0o007

            def lock_it() -> None:
                with pytest.raises(PermissionError):
                    (run / LOCK_FILE).open("rb")

            as_stranger(lock_it)


def leave_record(folder: Path, host: str) -> None:
    record = {"host": host, "process": 7, "since": "2026-01-01 00:00:00", "token": "gone", "beat": 3}
    (folder / LOCK_FILE).write_text(json.dumps(record))


def test_a_start_on_another_node_after_a_crash_goes_on_once_nothing_beats(tmp_path: Path) -> None:
    leave_record(tmp_path, "node-a")
    began = time.monotonic()
    take(tmp_path)
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("seconds", [0, 2**32])
def test_no_clock_ends_a_run_that_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """As on a server whose clock is years off."""
    here = os.uname().nodename
    write = os.fsync

    def elsewhen(file: int) -> None:
        write(file)
        os.utime(tmp_path / LOCK_FILE, (seconds, seconds))

    monkeypatch.setattr(os, "fsync", elsewhen)
    monkeypatch.setattr(run_lock, "try_lock", lambda file: True)
    as_host(monkeypatch, "node-a")
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        as_host(monkeypatch, here)
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)


def test_a_lock_that_a_server_keeps_for_a_crashed_node_is_taken_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_record(tmp_path, "node-a")
    kept = os.open(tmp_path / LOCK_FILE, os.O_RDWR)
    assert try_lock(kept)
    refuse_if_held(tmp_path)
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        assert "node-a holds it and gives no sign of life" in capsys.readouterr().out
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)
    os.close(kept)
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_was_replaced_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        leave_record(tmp_path, "node-b")
        _wait_until(lambda: bool(ended))
    assert ended[0] == run_lock.REPLACED_STATUS


def test_a_lock_file_that_somebody_removes_comes_back(tmp_path: Path) -> None:
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        (tmp_path / LOCK_FILE).unlink()
        _wait_until((tmp_path / LOCK_FILE).exists)
        with pytest.raises(InputError, match="is in use by"):
            take(tmp_path)


def test_without_locks_of_the_kernel_the_beat_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "try_lock", lambda file: None)
    monkeypatch.setattr(run_lock, "is_locked", lambda file: None)
    with RunLock(tmp_path, is_main=True) as lock:
        lock.take()
        for start in (take, refuse_if_held):
            with pytest.raises(InputError, match="is in use by"):
                start(tmp_path)
    take(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 500, b"[1]", b'{"host": 1', b'{"host": {}}', b"\xff\xfe"])
def test_a_lock_file_of_any_content_is_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_FILE).write_bytes(content)
    take(tmp_path)


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^run_dir: .*/file cannot be written: "):
        take(tmp_path / "file")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "file")
    with pytest.raises(InputError, match=r"^run_dir: .* cannot be written: .*run\.lock: Too many levels"):
        take(tmp_path)
    (tmp_path / LOCK_FILE).unlink()
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(InputError, match=r"^run_dir: .* cannot be written: .*run\.lock: Is a directory"):
        take(tmp_path)


def test_asking_takes_nothing(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    other = os.open(tmp_path / "file", os.O_RDWR)
    assert is_locked(file) is False
    assert try_lock(other) is True
    assert is_locked(file) is True
    assert try_lock(file) is False
    os.close(other)
    assert try_lock(file) is True
    os.close(file)


def _wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
