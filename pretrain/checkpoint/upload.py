"""A checkpoint that is whole in the run folder goes to the remote folder, too.

In: the committed folder. Out: its remote copy, or why there is none. Always: the local checkpoint comes first and
stays, whatever becomes of the copy; the remote manifest is written last, and only when every rank's file has arrived.
"""

import time
from pathlib import Path

from common.files import read_json, write_json
from common.urls import without_credentials
from pretrain.checkpoint.layout import rank_file
from pretrain.checkpoint.remote import RemoteCheckpoints

POLL_SECONDS = 0.02


def wait_for_commit(temporary: Path, timeout_seconds: float) -> bool:
    """Whether rank 0 gave the folder ``temporary`` its final name; False where it failed, or took too long."""
    deadline = time.monotonic() + timeout_seconds
    while temporary.exists():
        if next(iter(temporary.glob("rank_*.failed")), None) is not None or time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def upload(
    remote: RemoteCheckpoints, checkpoint: Path, notes: Path, rank: int, world_size: int, timeout_seconds: float
) -> str | None:
    """This rank's part of the copy; every rank calls it.

    Args:
        notes: a folder of this save's own, where the ranks tell rank 0 how it went.

    Returns:
        On rank 0, why there is no remote copy; None where there is one.
    """
    problem = None
    try:
        remote.put(checkpoint / rank_file(rank), checkpoint.name)
    except Exception as error:  # every kind of store has errors of its own
        problem = _reason(error)
    write_json(notes / rank_file(rank, "json"), {"problem": problem})
    if rank != 0:
        return None
    deadline = time.monotonic() + timeout_seconds
    while len(found := sorted(notes.glob("rank_*.json"))) < world_size:
        if time.monotonic() > deadline:
            return f"{len(found)} of {world_size} ranks have uploaded their file"
        time.sleep(POLL_SECONDS)
    problems = [problem for path in found if (problem := read_json(path, "upload note")["problem"])]
    if problems:
        return str(problems[0])
    try:
        remote.commit(checkpoint)
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    return without_credentials(f"{type(error).__name__}: {error}")
