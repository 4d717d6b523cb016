"""What every start of a run leaves behind, so that the next start, the launcher and a person know how it went.

In: what a rank or the launcher knows. Out: `runs/NAME/attempts/0003/`, one small file per writer:
`launch.json` and `node_HOST.json` by the launcher, `start.json`, `progress` and `end.json` by rank 0,
`rank_00005.error.json`, `rank_00005.hang.json` and `rank_00005.stacks` by the ranks.
Always: every file has one writer and is whole or absent, so nodes never mix on a shared file system. The attempt's
number comes from the launcher, and no two launchers get the same; attempt 0 stands for starts without one. Which came
first is counted, not told by clocks, which differ between nodes and can be set back.
"""

import contextlib
import json
import logging
import os
import re
import socket
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import write_json
from common.typed import LARGEST_INTEGER, check_complete, check_value
from common.urls import values_without_credentials

ATTEMPT_VARIABLE = "PRETRAIN_ATTEMPT"
SKIPPED_FILE = "skipped_steps.jsonl"
"""in the run folder: the steps that were kept from the weights, why, and their samples"""
HUNG_STATUS = 76
"""exit status of a rank that the hang watchdog ended"""


class Outcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    ROLLED_BACK = "rolled back"
    BAD_INPUT = "bad input"
    HUNG = "hung"
    CRASHED = "crashed"
    LOST = "lost"
    GAVE_UP = "gave up"


@dataclass(frozen=True)
class AttemptRecord:
    """What an attempt's folder says."""

    number: int
    folder: Path
    launch: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    """the last step that was finished in it; None: none was"""

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs, or where nobody has said it yet."""
        return Outcome(self.end["outcome"]) if self.end else None

    @property
    def place(self) -> int:
        """Its place in the order of all starts."""
        place = (self.launch or self.start).get("place")
        return place if isinstance(place, int) else self.number

    @property
    def last_step(self) -> int:
        """Steps that the run had taken when the attempt ended."""
        return self.step if self.step is not None else int(self.start.get("step", 0))

    def files(self, pattern: str) -> list[dict[str, Any]]:
        """The readable JSON files of that name, as in "rank_*.hang.json", in order."""
        found = (_read(path) for path in sorted(self.folder.glob(pattern)))
        return [content for content in found if content]


class Attempt:
    """The writing side: one start of a run."""

    def __init__(self, run_folder: Path, number: int) -> None:
        self.number = number
        self.folder = attempt_folder(run_folder, number)
        self._progress: int | None = None
        self._has_warned = False

    def launch(self, **facts: Any) -> None:
        """The launcher starts it."""
        self._write("launch.json", time=time.time(), place=self._next_place(), **facts)

    def withdraw(self) -> bool:
        """The launcher takes its word back, where nobody else has written any; whether it did.

        A start that is refused before it begins has not been one of the run's.
        """
        if [path.name for path in self.folder.iterdir()] != ["launch.json"]:
            return False
        (self.folder / "launch.json").unlink()
        self.folder.rmdir()
        return True

    def start(self, step: int, **facts: Any) -> None:
        """Rank 0 goes on from ``step``."""
        if self.number == 0:  # reused by every start without a launcher
            for old in ("end.json", "progress"):
                (self.folder / old).unlink(missing_ok=True)
            facts["place"] = self._next_place()
        self._write("start.json", time=time.time(), step=step, **facts)

    def progress(self, step: int) -> None:
        """Rank 0 has finished ``step`` steps; costs one small write, and a warning, once, where the disk refuses it."""
        try:
            if self._progress is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._progress = os.open(self.folder / "progress", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            os.pwrite(self._progress, f"{step:>15}\n".encode(), 0)
        except OSError as error:
            if not self._has_warned:
                print(f"WARNING: {self.folder / 'progress'}: {error.strerror}; it lags behind", flush=True)
            self._has_warned = True

    def end(self, outcome: Outcome, reason: str, step: int | None = None) -> None:
        """It is over, and why, in one line."""
        self._write("end.json", time=time.time(), outcome=outcome, reason=" ".join(reason.split()), step=step)

    def rank_failed(self, rank: int, error: BaseException) -> None:
        """This rank ends with ``error``."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self._write(f"rank_{rank:05d}.error.json", time=time.time(), rank=rank, host=socket.gethostname(), error=text)

    def node_failed(self, host: str, failures: list[dict[str, Any]]) -> None:
        """The launcher of ``host`` saw these ranks die."""
        self._write(f"node_{host}.json", time=time.time(), host=host, failures=failures)

    def _next_place(self) -> int:
        return max((record.place for record in read_attempts(self.folder.parent.parent)), default=0) + 1

    def _write(self, name: str, **content: Any) -> None:
        write_json(self.folder / name, values_without_credentials(content))


@contextlib.contextmanager
def recorded_failures(attempt: Attempt, rank: int) -> Iterator[None]:
    """Puts on record what ends this rank; the error goes on its way, also where the record cannot be written."""
    try:
        yield
    except InputError as error:
        if attempt.folder.exists():  # bad input leaves nothing behind where the launcher has not begun a record
            with contextlib.suppress(OSError):
                attempt.rank_failed(rank, error)
                if rank == 0:
                    attempt.end(Outcome.BAD_INPUT, str(error))
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            attempt.rank_failed(rank, error)
        logging.getLogger(__name__).warning("rank %d ends", rank, exc_info=True)  # the console gets Python's own report
        raise


def current_attempt(run_folder: Path) -> Attempt:
    """The attempt that this process belongs to, as the launcher's environment says.

    Raises:
        InputError: it says something that no launcher does.
    """
    number = os.environ.get(ATTEMPT_VARIABLE, "0")
    if not re.fullmatch("[0-9]{1,9}", number):
        raise InputError(f"{ATTEMPT_VARIABLE}: is {number!r}; launchers set it to the attempt's number, you need not")
    return Attempt(run_folder, int(number))


def next_attempt(run_folder: Path) -> Attempt:
    """A new attempt, numbered after all there are; its folder is made, and nobody else gets the number."""
    while True:
        attempt = Attempt(run_folder, max((record.number for record in read_attempts(run_folder)), default=0) + 1)
        attempt.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another launcher was quicker
            attempt.folder.mkdir()
            return attempt


def attempt_folder(run_folder: Path, number: int) -> Path:
    """Where attempt ``number`` lies."""
    return run_folder / "attempts" / f"{number:04d}"


def read_attempts(run_folder: Path) -> list[AttemptRecord]:
    """All attempts of a run, oldest first; safe while the run goes on."""
    folders = [path for path in (run_folder / "attempts").glob("*") if re.fullmatch("[0-9]{1,18}", path.name)]
    return sorted(map(read_attempt, folders), key=lambda record: (record.place, record.number))


def read_attempt(folder: Path) -> AttemptRecord:
    """One attempt."""
    try:
        step = int((folder / "progress").read_text())
    except (OSError, ValueError):
        step = None
    return AttemptRecord(
        number=int(folder.name),
        folder=folder,
        step=step if step is None or 0 <= step <= LARGEST_INTEGER else None,
        launch=_read(folder / "launch.json", _LaunchFacts),
        start=_read(folder / "start.json", _StartFacts),
        end=_read(folder / "end.json", _EndFacts),
    )


@dataclass(frozen=True)
class _LaunchFacts:
    time: float
    place: int
    job: str
    nodes: list[str]


@dataclass(frozen=True)
class _StartFacts:
    time: float
    place: int
    step: int
    hosts: list[str]


@dataclass(frozen=True)
class _EndFacts:
    time: float
    outcome: str
    reason: str


def _read(path: Path, facts: type | None = None) -> dict[str, Any]:
    """The file's content; nothing where it is not whole, or holds ``facts`` of another kind than they are."""
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            return {}
        for name, hint in typing.get_type_hints(facts).items() if facts is not None else []:
            if name in content:
                check_value(hint, content[name], str(path), name)
        if facts is _EndFacts:
            check_complete(_EndFacts, content, str(path))
            Outcome(content["outcome"])
    except (OSError, ValueError, RecursionError):
        return {}
    return content
