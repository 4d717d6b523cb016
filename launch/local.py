"""`python -m launch local --nproc N --config configs/X.yaml [--section.key value ...]`

In: the training's own arguments. Out: the training on this machine, and its exit status.
Always: a wrong config, or data that does not fit it, is one line and status 2 before any process starts; a run that was
asked to stop ends with status 75 and goes on where it was when the same command is given again; one that rolled back
starts again at once.
"""

import argparse
import os
import secrets

from common.cli import parse_config
from common.errors import InputError
from common.flags import FlagParser
from common.output import say
from common.ranges import check_range
from launch.torchrun import NodePlan, run_node
from launch.verdict import Action, close_attempt, decide, was_refused
from pretrain.config import RunConfig
from pretrain.resilience.attempts import ATTEMPT_VARIABLE, next_attempt
from pretrain.run_lock import refuse_if_held

STOPPED_STATUS = 75


def main(arguments: list[str]) -> int:
    """Checks the config, then trains until the run is finished, stopped, or has crashed too often."""
    settings, training = _parse(arguments)
    config = parse_config(RunConfig, training, "python -m launch local")
    processes = settings.nproc or _devices()
    check(config, processes)
    check_files(config)
    cores = len(os.sched_getaffinity(0))
    if processes > cores:
        say(f"WARNING: --nproc: {processes} processes will share {cores} core{'s' if cores > 1 else ''}")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_process(processes)))
    job = f"local {secrets.token_hex(8)}"
    while True:
        attempt = next_attempt(config.run_folder)
        attempt.launch(job=job, nodes=[os.uname().nodename])
        os.environ[ATTEMPT_VARIABLE] = str(attempt.number)
        status = run_node(NodePlan(processes), ["pretrain", *training], config.run_folder)
        if was_refused(config.run_folder, job, status):
            return status
        close_attempt(config.run_folder, job, status)
        decision = decide(config.run_folder, job, settings.tries)
        if decision.action is Action.FINISHED:
            return 0
        if decision.action is Action.REQUEUE and status == 0:
            print(f"{decision.reason}; the same command goes on from there", flush=True)
            return STOPPED_STATUS
        if decision.action is Action.STOP:
            return status or 1
        print(f"{decision.reason}; starting again", flush=True)


def check(config: RunConfig, processes: int) -> None:
    """Refuses what the training would refuse, before there are processes."""
    from pretrain.checks import check_run
    from pretrain.runfolder import check_own_folder
    from pretrain.topology import plan_topology

    check_run(config, plan_topology(config.parallel, processes))
    check_own_folder(config)


def check_files(config: RunConfig) -> None:
    """Refuses shards that are not there or do not fit, and a run folder that cannot be written."""
    from launch.checks.storage import writing_problem
    from pretrain.run_data import open_data

    problem = writing_problem(config.run_folder)
    if problem:
        raise InputError(f"run_dir: {problem}")
    refuse_if_held(config.run_folder)
    open_data(config)


def threads_per_process(processes: int) -> int:
    """An equal share of the cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = FlagParser(
        prog="python -m launch local",
        usage="%(prog)s [--nproc N] [--tries N] --config FILE [--section.key value ...]",
        description="Trains on this machine. All other arguments go to `python -m pretrain`; its --help lists them.",
    )
    parser.add_argument("--nproc", type=int, help="processes (default: one per GPU, or one)")
    parser.add_argument("--tries", type=int, default=1, help="starts that may end at the same step before giving up")
    settings, training = parser.parse_known_args(arguments)
    check_range(settings, "--", "nproc", "tries", low=1)
    return settings, training


def _devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())
