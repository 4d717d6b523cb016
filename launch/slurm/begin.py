"""`python -m launch begin`, which the batch script calls before each attempt.

In: the run folder, the job's nodes, Slurm's environment, and on standard input the states of all nodes as Slurm sees
them now. Out: the new attempt's number on standard output, or nothing where the job's run is finished; what became of
the attempt before on standard error.
Always: an attempt whose node or batch script died is closed here, with the state of its nodes as Slurm sees it; a run
that another start trains is left alone. Calls no command of Slurm's: the image that this may run in need not hold them.
"""

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.environment import whole_number
from common.flags import FlagParser
from launch.verdict import (
    Action,
    attempts_of,
    close_attempt,
    decide,
    put_on_top,
    starts_that_failed,
)
from pretrain.places import LOG_FILE
from pretrain.resilience.attempts import next_attempt
from pretrain.run_lock import refuse_if_held

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5, 60
"""after each attempt that failed to start: Slurm needs time to notice a dead node, minutes on large clusters"""


def main(arguments: list[str]) -> int:
    """Exit status 0: go on with the attempt that was printed, if any; 1: the run must be looked at by a person."""
    parser = FlagParser(prog="python -m launch begin", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--tries", type=int, required=True, help="attempts that may end after the same step")
    parser.add_argument("--nodes", type=str.split, required=True, help="the job's nodes, one a line")
    settings = parser.parse_args(arguments)
    job = os.environ["SLURM_JOB_ID"]
    before = attempts_of(settings.run, job)
    if before:
        if before[-1].outcome is None:
            close_attempt(settings.run, job, status=1, lost=lost_nodes(before[-1].launch["nodes"], sys.stdin))
        decision = decide(settings.run, job, settings.tries)
        _say(decision.reason)
        if decision.action is Action.STOP:
            put_on_top(settings.run / LOG_FILE, decision.reason)
            return 1
        if decision.action is Action.FINISHED:
            return 0
        time.sleep(pause_before_start(starts_that_failed(attempts_of(settings.run, job))))
    refuse_if_held(settings.run)
    attempt = next_attempt(settings.run)
    attempt.launch(job=job, nodes=settings.nodes, restarts=whole_number("SLURM_RESTART_COUNT", 0))
    _say(f"attempt {attempt.number} of {settings.run}: job {job} on {', '.join(settings.nodes)}")
    print(attempt.number)
    return 0


def pause_before_start(failed_starts: int) -> float:
    """Seconds to wait after so many starts that failed."""
    return min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * failed_starts)


def lost_nodes(nodes: Sequence[str], states: Iterable[str]) -> str:
    """Which of ``nodes`` are down, and why; empty: none. ``states``: lines of name, state and reason, of any nodes."""
    bad = dict.fromkeys(
        f"node {name} is {state} ({' '.join(reason)})"
        for name, state, *reason in (line.split() for line in states if len(line.split()) > 1)
        if name in nodes and state.rstrip("*$~#!%@^-+").startswith(("down", "drain", "fail", "unk"))
    )
    return "; ".join(bad)


def _say(text: str) -> None:
    print(f"[launch] {text}", file=sys.stderr, flush=True)
