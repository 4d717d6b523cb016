"""One start at a time in a run folder.

In: the run folder. Out: the right to write into it until the process ends, or an InputError that says who has it.
Always: the right ends with its process, however that ends; the file says who holds it, since when, and it beats.

How: rank 0 holds the kernel's lock on `run.lock`. Some file systems keep such locks to one node, and a server may keep
the lock of a node that has crashed. So the holder also writes a number that grows: where the lock and the beat of
another node disagree, the beat is believed. A holder that finds another one's name in the file ends itself. The file is
closed to other users: who can read it can lock it, too.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.file_lock import is_locked, try_lock

LOCK_FILE = "run.lock"
GRACE_SECONDS = 3.0
"""seconds in which a process that was killed may still hold its lock"""
BEAT_SECONDS = 5.0
WATCH_SECONDS = 2.5 * BEAT_SECONDS
"""seconds without a beat after which a holder counts as gone, unless the kernel says that it lives"""
PATIENCE_SECONDS = 150.0
"""the same where it does: most servers give up the locks of a crashed node after 90 seconds"""
WIDTH = 400
REPLACED_STATUS = 1
MODE = 0o660
"""colleagues of the group may go on with a run"""
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

Record = dict[str, Any]


class RunLock:
    """Held from ``take`` to the end of the ``with`` block; other ranks than rank 0 hold nothing."""

    def __init__(self, run_folder: Path, *, is_main: bool) -> None:
        self._folder, self._path, self._is_main = run_folder, run_folder / LOCK_FILE, is_main
        self._file: int | None = None
        self._changing = threading.Lock()
        self._done = threading.Event()
        self._record: Record = {}

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the lock up; the file goes, too."""
        self._done.set()
        with self._changing:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    if _is_at(self._file, self._path):
                        self._path.unlink()
                os.close(self._file)
                self._file = None

    def take(self, *, make: bool = True) -> None:
        """Takes the lock; with ``make`` False only in a folder that is there.

        Raises:
            InputError: another start holds it, or the folder cannot be written.
        """
        if not self._is_main or self._file is not None or (not make and not self._folder.is_dir()):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._acquire()
            with contextlib.suppress(OSError):  # a colleague's, or one of an earlier version
                os.fchmod(self._file, os.fstat(self._file).st_mode & MODE)
            self._record = {
                "host": socket.gethostname(),
                "boot": _boot(),
                "process": os.getpid(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "token": secrets.token_hex(8),
                "beat": 0,
            }
            self._write()
        except OSError as error:
            raise InputError(f"run_dir: {self._folder} cannot be written: {self._path}: {error.strerror}") from None
        threading.Thread(target=self._keep_beating, name="run lock", daemon=True).start()

    def _acquire(self) -> int:
        """The open lock file, ours."""
        began, told = time.monotonic(), False
        while True:
            file = os.open(self._path, FLAGS | os.O_CREAT, MODE)
            granted = try_lock(file)
            holder = _read(file)
            dead = granted is not False and not _lives(self._folder, holder, granted)
            if dead and _is_at(file, self._path):  # the holder before may just have removed it
                return file
            os.close(file)
            waited = time.monotonic() - began
            if dead or (granted is False and waited < GRACE_SECONDS):
                time.sleep(0.05)
                continue
            if granted is not False or _is_here(holder) or _beats(self._folder, holder):
                raise InputError(in_use(self._folder, holder))
            if waited > PATIENCE_SECONDS:
                return self._replace()
            if not told:
                print(
                    f"{self._path}: {holder['host']} holds it and gives no sign of life; it is taken over in "
                    f"{PATIENCE_SECONDS - waited:.0f} seconds unless it does",
                    flush=True,
                )
                told = True

    def _replace(self) -> int:
        """A new lock file of ours, in the place of one whose holder is gone or that somebody has removed."""
        temporary = self._path.with_name(f"{LOCK_FILE}.{secrets.token_hex(8)}")
        file = os.open(temporary, FLAGS | os.O_CREAT | os.O_EXCL, MODE)
        try_lock(file)
        temporary.replace(self._path)
        return file

    def _keep_beating(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            with self._changing, contextlib.suppress(OSError):  # a full disk: the kernel's lock holds meanwhile
                if self._file is None:
                    return
                held = read_holder(self._folder)
                if held and held.get("token") != self._record["token"]:
                    self._give_way(held)
                if not self._path.exists():  # by whatever hand
                    lost, self._file = self._file, self._replace()
                    os.close(lost)
                self._record["beat"] += 1
                self._write()

    def _give_way(self, held: Record) -> None:
        """Ends this process at once: two that write would destroy each other's saves."""
        print(f"{self._path}: {held.get('host')} has taken this run over; ending here", file=sys.stderr, flush=True)
        os._exit(REPLACED_STATUS)

    def _write(self) -> None:
        assert self._file is not None
        os.pwrite(self._file, json.dumps(self._record).ljust(WIDTH).encode() + b"\n", 0)
        os.fsync(self._file)


def refuse_if_held(run_folder: Path) -> None:
    """For launchers, before they write anything: is somebody training in this folder?

    Raises:
        InputError: says who.
    """
    try:
        file = os.open(run_folder / LOCK_FILE, FLAGS)
    except OSError:  # none, or not for us: the ranks will see
        return
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        while (locked := is_locked(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if locked is False:  # on this node, at least; rank 0 looks at the others
            return
        holder = _read(file)
        if (locked and _is_here(holder)) or _beats(run_folder, holder):
            raise InputError(in_use(run_folder, holder))
    finally:
        os.close(file)


def read_holder(run_folder: Path) -> Record:
    """What the lock file says; empty where there is none."""
    try:
        file = os.open(run_folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return {}
    try:
        return _read(file)
    finally:
        os.close(file)


def in_use(run_folder: Path, holder: Record) -> str:
    """The one line that a second start ends with."""
    who = "another start"
    if holder:
        who = f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}"
    return (
        f"run_dir: {run_folder} is in use by {who}; wait for it, stop it, or name another folder (--run-dir or --name)"
    )


def _lives(run_folder: Path, holder: Record, granted: bool | None) -> bool:
    """Whether the holder on record is alive; that the kernel knows of no lock counts on this node only.

    No clock is asked: those of two nodes, or of a node and its server, may be hours apart.
    """
    if not holder or (granted and _is_here(holder)):
        return False
    return _beats(run_folder, holder)


def _is_here(holder: Record) -> bool:
    """Whether its kernel is this one; names of hosts are not enough: containers of two machines may have one."""
    return holder.get("host") in (None, socket.gethostname()) and holder.get("boot") in (None, _boot())


def _boot() -> str | None:
    """What the kernel drew when it started; None where it does not say."""
    try:
        return BOOT_FILE.read_text().strip()
    except OSError:
        return None


def _beats(run_folder: Path, holder: Record) -> bool:
    """Whether the record changes while one looks."""
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(WATCH_SECONDS / 50)
        if read_holder(run_folder) not in ({}, holder):
            return True
    return False


def _read(file: int) -> Record:
    try:
        content = json.loads(os.pread(file, 4 * WIDTH, 0))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        status, named = os.fstat(file), path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
