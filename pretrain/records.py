"""Records that a run can do without: a disk that is full delays or costs them, and never ends the run.

In: the lines of steps, or a block that writes something. Out: the file, and one warning where the disk refuses it.
Always: lines that are refused wait and come whole when there is room, so that no half of one stands before the next.
Config, checkpoints and the end of a run that is not finished are no such records: without them a start, a save or the
attempt fails.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from common.files import open_itself, write_atomically
from common.output import in_words
from pretrain.step_lines import read_steps, step_line


@contextmanager
def forgiving(consequence: str) -> Iterator[None]:
    """Turns what the disk refuses within the block into a warning that ends with ``consequence``."""
    try:
        yield
    except OSError as error:
        print(f"WARNING: {in_words(error)}; {consequence}", flush=True)


class StepFile:
    """One JSON object per line and step, written at once; what the disk refuses waits until there is room."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Keeps the lines up to step ``resumed_at`` of an earlier start and drops what that start did later.

        Raises:
            InputError: a line that no run writes.
        """
        self._path = path
        if os.path.lexists(path):
            kept = [line for line in read_steps(path) if line["step"] <= resumed_at]
            write_atomically(path, "".join(step_line(line) for line in kept))
        self._file: IO[Any] | None = None
        self._waiting = b""

    def write(self, values: Mapping[str, Any]) -> None:
        """Adds the line of a step, or lets it wait."""
        was_waiting = bool(self._waiting)
        self._waiting += step_line(values).encode()
        refusal = self._write_waiting()
        if refusal and not was_waiting:
            print(f"WARNING: {self._path}: {refusal}; its lines wait until there is room", flush=True)

    def close(self) -> None:
        """Writes what waits, or says that it is lost."""
        refusal = self._write_waiting()
        if refusal:
            print(f"WARNING: {self._path}: {refusal}; its last lines are lost", flush=True)
        if self._file is not None:
            with forgiving("its last lines may be lost"):  # a network file system may say only now that it is full
                self._file.close()

    def _write_waiting(self) -> str | None:
        """Writes all that waits; returns why that did not work, or None."""
        try:
            while self._waiting:
                if self._file is None:
                    self._file = open_itself(self._path, "ab", buffering=0)
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            return error.strerror
        return None
