"""A checkpoint that is whole in the run folder goes to the remote folder, too.

In: the committed folder. Out: its remote copy, or a warning that says why there is none. Always: the local checkpoint
comes first and stays, whatever becomes of the copy; the remote manifest is written last, and only when every rank's
file has arrived; a store that does not answer holds training up once, for as long as the patience lasts.
"""

import contextlib
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.urls import without_credentials
from pretrain.checkpoint.layout import rank_file
from pretrain.checkpoint.notes import collect_notes, leave_note
from pretrain.checkpoint.remote import RemoteCheckpoints


@dataclass(frozen=True)
class _Copy:
    checkpoint: Path
    notes: Path
    """a folder of this copy's own, where the ranks tell rank 0 how it went"""
    expired: Sequence[int]
    given_up: threading.Event = field(default_factory=threading.Event)


class Uploads:
    """Copies one checkpoint at a time beside training; every rank holds one and calls it for the same checkpoints."""

    def __init__(self, remote: RemoteCheckpoints, rank: int, world_size: int, patience_seconds: float) -> None:
        self._remote, self._rank, self._world_size = remote, rank, world_size
        self._patience = patience_seconds
        self._copy: _Copy | None = None
        self._thread: threading.Thread | None = None

    def begin(self, checkpoint: Path, notes: Path, expired: Sequence[int] = ()) -> None:
        """Starts this rank's part of the copy, unless one that was given up still waits for the store.

        Args:
            notes: a folder that no other copy has; goes with it.
            expired: steps whose copies may go.
        """
        copy = _Copy(checkpoint, notes, expired)
        if self._thread is not None and self._thread.is_alive():
            self._cannot(copy, "an earlier one that was given up has not ended")
            return
        self._copy = copy
        # A daemon, because nobody can end a call to a store that does not answer, and the process must.
        self._thread = threading.Thread(target=self._run, args=(copy,), name="upload", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Waits for the copy under way; one that takes longer than the patience is given up."""
        if self._thread is None or self._copy is None or self._copy.given_up.is_set():
            return
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._copy.given_up.set()
            if self._rank == 0:
                self._warn(self._copy, f"given up after another {self._patience:.0f} s")

    def _run(self, copy: _Copy) -> None:
        try:
            self._upload(copy)
        except Exception as error:  # the run folder's disk may be full, too
            self._warn(copy, _reason(error))

    def _upload(self, copy: _Copy) -> None:
        problem = None
        try:
            self._remote.put(copy.checkpoint / rank_file(self._rank), copy.checkpoint.name)
        except Exception as error:  # every kind of store has errors of its own
            problem = _reason(error)
        if copy.given_up.is_set():
            return
        leave_note(copy.notes, self._rank, problem)
        if self._rank == 0:
            self._finish(copy)

    def _finish(self, copy: _Copy) -> None:
        """Makes the copy exist, once all ranks have put theirs, and removes what has expired."""
        problem = None
        try:
            told = collect_notes(copy.notes, self._world_size, "have uploaded their file", copy.given_up.is_set)
            problem = next((text for text in told if text), None)
            if problem is None:
                self._remote.commit(copy.checkpoint)
        except Exception as error:
            problem = _reason(error)
        shutil.rmtree(copy.notes, ignore_errors=True)
        if copy.given_up.is_set():
            return
        if problem is not None:
            self._warn(copy, problem)
        with contextlib.suppress(Exception):  # a store that is away was told of already
            for step in copy.expired:
                self._remote.remove(step)

    def _cannot(self, copy: _Copy, problem: str) -> None:
        if self._rank == 0:
            self._warn(copy, problem)
        else:
            leave_note(copy.notes, self._rank, problem)

    def _warn(self, copy: _Copy, problem: str) -> None:
        print(f"WARNING: {copy.checkpoint} is whole, but has no copy in {self._remote.url}: {problem}", flush=True)


def _reason(error: Exception) -> str:
    return without_credentials(f"{type(error).__name__}: {error}")
