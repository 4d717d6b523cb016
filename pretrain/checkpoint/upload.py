"""A checkpoint that is whole in the run folder goes to the remote folder, too.

In: the committed folder. Out: its remote copy, or why there is none. Always: the local checkpoint comes first and
stays, whatever becomes of the copy; the remote manifest is written last, and only when every rank's file has arrived.
"""

from pathlib import Path

from common.urls import without_credentials
from pretrain.checkpoint.layout import rank_file
from pretrain.checkpoint.notes import collect_notes, leave_note
from pretrain.checkpoint.remote import RemoteCheckpoints


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
    leave_note(notes, rank, problem)
    if rank != 0:
        return None
    try:
        told = collect_notes(notes, world_size, timeout_seconds, "have uploaded their file")
    except TimeoutError as error:
        return str(error)
    problems = [problem for problem in told if problem]
    if problems:
        return str(problems[0])
    try:
        remote.commit(checkpoint)
    except Exception as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    return without_credentials(f"{type(error).__name__}: {error}")
