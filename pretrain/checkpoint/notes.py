"""How the ranks tell each other, in the background and by files alone, how a save goes.

In: a folder of this save. Out: `rank_R.json`, what a rank says to rank 0, and `rank_R.failed`, that it cannot go on.
Always: a note is whole or absent; it is nobody's record, so it is not flushed, and the one who leaves it touches
nothing after it: rank 0 may rename or remove the folder as soon as it has all notes.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import TEMPORARY_SUFFIX, read_json
from pretrain.checkpoint.layout import rank_file

POLL_SECONDS = 0.02
NOTE = "json"
FAILED = "failed"


def leave_note(folder: Path, rank: int, value: Any) -> None:
    """Says ``value``, as JSON, to rank 0."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / rank_file(rank, NOTE)
    unfinished = note.with_name(note.name + TEMPORARY_SUFFIX)
    with unfinished.open("x") as file:
        json.dump(value, file)
    unfinished.replace(note)


def collect_notes(folder: Path, world_size: int, done: str, given_up: Callable[[], bool]) -> list[Any]:
    """What all ranks said, by rank; waits for it.

    Args:
        done: what a rank has done that left its note, as in "have uploaded their file".
        given_up: whether it has taken too long.

    Raises:
        RuntimeError: a rank cannot go on.
        TimeoutError: not all of them have come.
    """
    while True:
        failed = next(iter(folder.glob(f"rank_*.{FAILED}")), None)
        if failed is not None:
            raise RuntimeError(f"{failed.stem} could not write its part")
        notes = sorted(folder.glob(f"rank_*.{NOTE}"))
        if len(notes) == world_size:
            return [read_json(note, "note of a rank") for note in notes]
        if given_up():
            raise TimeoutError(f"{len(notes)} of {world_size} ranks {done}")
        time.sleep(POLL_SECONDS)


def wait_for_commit(folder: Path, timeout_seconds: float) -> bool:
    """Whether rank 0 gave ``folder`` its final name; False where a rank failed, or it took too long."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:  # it has the other name by now
            return True
        if any(name.endswith(f".{FAILED}") for name in names) or time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
