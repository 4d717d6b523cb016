"""`python -m launch conclude`, which the batch script calls after each attempt.

In: the run folder, the exit status of srun, and the signal that the script got, if any. Out: on standard output, the
script's next step: finished, again (in the same allocation), requeue, or stop; why on standard error.
"""

import os
import sys
from pathlib import Path

from common.flags import FlagParser
from launch.verdict import Action, close_attempt, decide, put_on_top, was_refused
from pretrain.places import LOG_FILE


def main(arguments: list[str]) -> int:
    """Prints the action."""
    parser = FlagParser(prog="python -m launch conclude", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("--tries", type=int, required=True, help="attempts that may end after the same step")
    parser.add_argument("--status", type=int, required=True, help="srun's exit status")
    parser.add_argument("--asked", default="", help="the signal that asked for a stop")
    settings = parser.parse_args(arguments)
    job = os.environ["SLURM_JOB_ID"]
    if was_refused(settings.run, job, settings.status):
        print(f"[launch] another start was quicker: {Action.STOP}", file=sys.stderr, flush=True)
        print(Action.STOP)
        return 0
    close_attempt(settings.run, job, settings.status, settings.asked)
    decision = decide(settings.run, job, settings.tries, settings.asked)
    print(f"[launch] {decision.reason}: {decision.action}", file=sys.stderr, flush=True)
    if decision.action is Action.STOP:
        put_on_top(settings.run / LOG_FILE, decision.reason)
    print(decision.action)
    return 0
