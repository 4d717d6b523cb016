"""After an attempt: what became of it, and what to do now.

In: the run folder, the job that the attempt belongs to, and the exit status of its processes. Out: `end.json`, where
the training itself could not write it, and a Decision.
Always: a job is stopped, and the reason told, when `tries` of its attempts in a row ended after the same step, whatever
ended them. Not counted are attempts that a preemption or a user stopped, which says nothing about the run, and attempts
of earlier jobs.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from common.errors import InputError
from common.files import write_atomically
from pretrain.resilience.attempts import Attempt, AttemptRecord, Outcome, read_attempts
from pretrain.resilience.hang import explain_hang
from pretrain.run_lock import refuse_if_held

BAD_INPUT_STATUS = 2
START_TRIES = 10
"""attempts in a row that may fail to start at all: a dead node looks like this until Slurm notices"""
DELIBERATE = {Outcome.STOPPED, Outcome.ROLLED_BACK}
"""ends that are no failure; only a repetition without any progress is one"""


class Action(StrEnum):
    """What the launcher does next."""

    FINISHED = "finished"
    AGAIN = "again"
    REQUEUE = "requeue"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """What to do, and why, in one line."""

    action: Action
    reason: str


def attempts_of(run_folder: Path, job: str) -> list[AttemptRecord]:
    """The attempts of one job, oldest first."""
    return [record for record in read_attempts(run_folder) if record.launch.get("job") == job]


def was_refused(run_folder: Path, job: str, status: int) -> bool:
    """Whether the ranks of the newest attempt of ``job`` found the run's lock taken by a start that was quicker.

    It is no attempt then: record and log are the other one's.
    """
    if status != BAD_INPUT_STATUS:
        return False
    try:
        refuse_if_held(run_folder)
    except InputError:
        return Attempt(run_folder, attempts_of(run_folder, job)[-1].number).withdraw()
    return False


def close_attempt(run_folder: Path, job: str, status: int, asked: str = "", lost: str = "") -> None:
    """Writes how the newest attempt of ``job`` ended, unless the training has done so itself.

    Args:
        status: exit status of its processes.
        asked: the signal by which the launcher had asked for a stop, if any.
        lost: nodes of the attempt that are down, if any, in words.
    """
    record = attempts_of(run_folder, job)[-1]
    if record.outcome is None:
        outcome, reason = _diagnose(record, status, asked, lost)
        Attempt(run_folder, record.number).end(outcome, reason, record.last_step)


def decide(run_folder: Path, job: str, tries: int, asked: str = "") -> Decision:
    """What follows from the attempts of ``job``, of which the newest has ended."""
    records = attempts_of(run_folder, job)
    last = records[-1]
    reason = f"attempt {last.number} {last.end['outcome']} after step {last.last_step}: {last.end['reason']}"
    if last.outcome is Outcome.FINISHED:
        return Decision(Action.FINISHED, last.end["reason"])
    if last.outcome in {Outcome.BAD_INPUT, Outcome.GAVE_UP}:
        return Decision(Action.STOP, reason)
    in_a_row = _at_the_same_step(records)
    if in_a_row >= _allowed(last, tries):
        times = f"{in_a_row} attempts in a row ended after step {last.last_step}; " if in_a_row > 1 else ""
        return Decision(Action.STOP, f"{times}{reason}")
    if asked or last.outcome in {Outcome.STOPPED, Outcome.HUNG}:
        return Decision(Action.REQUEUE, reason)
    return Decision(Action.AGAIN, reason)


def starts_that_failed(records: list[AttemptRecord]) -> int:
    """How many of the newest attempts left no word at all."""
    return next((count for count, record in enumerate(reversed(records)) if not _never_began(record)), len(records))


def put_on_top(log: Path, text: str) -> None:
    """Makes ``text`` the first line of ``log``; what another process still writes to the old file is lost."""
    content = log.read_bytes() if log.exists() else b""
    write_atomically(log, f"STOPPED: {text}\n\n".encode() + content)


def _at_the_same_step(records: list[AttemptRecord]) -> int:
    """How many of the newest attempts ended after the same step."""
    counted = [record for record in records if not _interrupted(record)]
    if not counted or counted[-1] is not records[-1]:
        return 0
    count = 0
    for record in reversed(counted):
        if record.last_step != records[-1].last_step:
            break
        count += 1
    return count


def _allowed(last: AttemptRecord, tries: int) -> int:
    if _never_began(last):
        return max(tries, START_TRIES)
    return tries + (last.outcome in DELIBERATE)


def _never_began(record: AttemptRecord) -> bool:
    return record.outcome is Outcome.LOST and not record.start


def _interrupted(record: AttemptRecord) -> bool:
    return record.outcome is Outcome.STOPPED and any(name in record.end["reason"] for name in ("SIGTERM", "SIGINT"))


def _diagnose(record: AttemptRecord, status: int, asked: str, lost: str) -> tuple[Outcome, str]:
    """What happened to an attempt that could not say it itself."""
    hangs = record.files("rank_*.hang.json")
    if hangs:
        return Outcome.HUNG, "; ".join(filter(None, [explain_hang(hangs, record.start), lost]))
    if lost:  # what ranks on other nodes say follows from it
        return Outcome.LOST, lost
    if status == BAD_INPUT_STATUS:
        return Outcome.BAD_INPUT, "see the error above"
    if status == 0:
        return Outcome.FINISHED, "all processes ended well"
    deaths = [death | {"host": node["host"]} for node in record.files("node_*.json") for death in node["failures"]]
    killed = [death for death in deaths if death["status"] > 128]
    errors = sorted(record.files("rank_*.error.json"), key=lambda error: error["time"])
    if killed:  # the other ranks' errors only tell that it is gone
        return Outcome.CRASHED, f"rank {killed[0]['rank']} on {killed[0]['host']} {killed[0]['how']}"
    if errors:
        return Outcome.CRASHED, f"rank {errors[0]['rank']} on {errors[0]['host']}: {errors[0]['error']}"
    if deaths:
        return Outcome.CRASHED, f"rank {deaths[0]['rank']} on {deaths[0]['host']} {deaths[0]['how']}"
    if asked:
        return Outcome.STOPPED, f"{asked}: before training had begun"
    return Outcome.LOST, f"its processes ended with status {status} and left no word"
