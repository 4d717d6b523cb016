"""`python -m launch begin`, which the batch script calls before each attempt.

In: the run folder and Slurm's environment. Out: the new attempt's number on standard output, or nothing where the
job's run is finished; what became of the attempt before on standard error.
Always: an attempt whose node or batch script died is closed here, with the state of its nodes as Slurm sees it; a run
that another start trains is left alone.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from common.flags import FlagParser
from launch.verdict import (
    LOG_FILE,
    Action,
    attempts_of,
    close_attempt,
    decide,
    put_on_top,
    starts_that_failed,
)
from pretrain.resilience.attempts import next_attempt
from pretrain.run_lock import refuse_if_held

PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5, 60
"""after each attempt that failed to start: Slurm needs time to notice a dead node, minutes on large clusters"""


def main(arguments: list[str]) -> int:
    """Exit status 0: go on with the attempt that was printed, if any; 1: the run must be looked at by a person."""
    parser = FlagParser(prog="python -m launch begin", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--tries", type=int, required=True, help="attempts that may end after the same step")
    settings = parser.parse_args(arguments)
    job = os.environ["SLURM_JOB_ID"]
    before = attempts_of(settings.run, job)
    if before:
        if before[-1].outcome is None:
            close_attempt(settings.run, job, status=1, lost=lost_nodes(before[-1].launch["nodes"]))
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
    nodes = _lines("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"])
    attempt.launch(job=job, nodes=nodes, restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")))
    _say(f"attempt {attempt.number} of {settings.run}: job {job} on {', '.join(nodes)}")
    print(attempt.number)
    return 0


def pause_before_start(failed_starts: int) -> float:
    """Seconds to wait after so many starts that failed."""
    return min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * failed_starts)


def lost_nodes(nodes: list[str]) -> str:
    """Which of ``nodes`` are down, and why, as Slurm sees it now; empty: none."""
    states = [line.split(maxsplit=2) for line in _lines("sinfo", "-hN", "-n", ",".join(nodes), "-o", "%N %T %E")]
    bad = dict.fromkeys(
        f"node {name} is {state} ({reason})"
        for name, state, reason in states
        if state.rstrip("*$~#!%@^-+").startswith(("down", "drain", "fail", "unk"))
    )
    return "; ".join(bad)


def _lines(*command: str) -> list[str]:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.split("\n")[:-1]


def _say(text: str) -> None:
    print(f"[launch] {text}", file=sys.stderr, flush=True)
