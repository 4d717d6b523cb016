"""After an attempt: what became of it, and what to do now.

In: the run folder and the exit status of the attempt's processes. Out: `end.json`, where the training itself could
not write it, and a Decision.
Always: a run that ends at the same step `tries` times in a row, however, is stopped with the reason; a preemption or a
user's stop never counts, because it says nothing about the run.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pretrain.resilience import HUNG_STATUS, Attempt, AttemptRecord, Outcome, read_attempts
from pretrain.resilience_hang import explain_hang

BAD_INPUT_STATUS = 2
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


def close_attempt(run_folder: Path, status: int) -> None:
    """Writes how the newest attempt ended, unless the training has done so itself."""
    record = read_attempts(run_folder)[-1]
    if record.outcome is None:
        outcome, reason = _diagnose(record, status)
        Attempt(run_folder, record.number).end(outcome, reason, record.last_step)


def decide(run_folder: Path, tries: int) -> Decision:
    """What follows from the attempts so far, of which the newest has ended."""
    records = read_attempts(run_folder)
    last = records[-1]
    reason = f"attempt {last.number} {last.end['outcome']} after step {last.last_step}: {last.end['reason']}"
    if last.outcome is Outcome.FINISHED:
        return Decision(Action.FINISHED, last.end["reason"])
    if last.outcome is Outcome.BAD_INPUT:
        return Decision(Action.STOP, reason)
    in_a_row = _at_the_same_step(records)
    if in_a_row >= tries + (last.outcome in DELIBERATE):
        times = f"{in_a_row} attempts in a row ended after step {last.last_step}; " if in_a_row > 1 else ""
        return Decision(Action.STOP, f"{times}{reason}")
    if last.outcome in {Outcome.STOPPED, Outcome.HUNG}:
        return Decision(Action.REQUEUE, reason)
    return Decision(Action.AGAIN, reason)


def _at_the_same_step(records: list[AttemptRecord]) -> int:
    """How many of the newest attempts ended after the same step."""
    counted = [record for record in records if not _preempted(record)]
    if not counted or counted[-1] is not records[-1]:
        return 0
    count = 0
    for record in reversed(counted):
        if record.last_step != records[-1].last_step:
            break
        count += 1
    return count


def _preempted(record: AttemptRecord) -> bool:
    return record.outcome is Outcome.STOPPED and any(name in record.end["reason"] for name in ("SIGTERM", "SIGINT"))


def _diagnose(record: AttemptRecord, status: int) -> tuple[Outcome, str]:
    """What happened to an attempt that could not say it itself."""
    hangs = record.files("rank_*.hang.json")
    failures = [
        failure | {"host": node["host"]} for node in record.files("node_*.json") for failure in node["failures"]
    ]
    if status == HUNG_STATUS or (hangs and any(failure["status"] == HUNG_STATUS for failure in failures)):
        return Outcome.HUNG, explain_hang(hangs, record.start)
    if status == BAD_INPUT_STATUS:
        return Outcome.BAD_INPUT, "see the error above"
    errors = record.files("rank_*.error.json")
    if errors:
        first = min(errors, key=lambda error: error["time"])
        return Outcome.CRASHED, f"rank {first['rank']} on {first['host']}: {first['error']}"
    if failures:
        first = failures[0]
        return Outcome.CRASHED, f"rank {first['rank']} on {first['host']} {first['how']}"
    if status == 0:
        return Outcome.FINISHED, "all processes ended well"
    return Outcome.LOST, f"its processes ended with status {status} and left no word: a node or the job was killed"
