"""One node's part of a job: torchrun, plus what a run that looks after itself needs from it.

In: how many processes here, and the training's arguments; on Slurm, the place among the nodes comes from the
environment. Out: the training's exit status, which torchrun alone turns into 1.
Always: signals reach the training and do not end torchrun before it; a rank that dies is named with its node, in the
log and in the attempt's folder; what the ranks print goes to the node's own log as well.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.environment import whole_number
from common.errors import InputError
from common.files import open_itself
from common.flags import FlagParser
from pretrain.places import LOGS
from pretrain.records import forgiving
from pretrain.resilience.attempts import HUNG_STATUS, current_attempt

TORCHRUN_FAILED = 1


@dataclass(frozen=True)
class NodePlan:
    """What torchrun is told on one node."""

    processes: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    def flags(self) -> list[str]:
        """As torchrun's own arguments."""
        flags = [f"--nproc-per-node={self.processes}", "--max-restarts=0"]
        if self.nodes == 1:
            return [*flags, "--standalone"]
        return [
            *flags,
            f"--nnodes={self.nodes}",
            f"--node-rank={self.node}",
            f"--master-addr={self.address}",
            f"--master-port={self.port}",
        ]


def main(arguments: list[str]) -> int:
    """`python -m launch torchrun --processes 8 --run DIR -- MODULE ARGUMENTS`, once per node under srun."""
    parser = FlagParser(prog="python -m launch torchrun", description=__doc__)
    parser.add_argument("--processes", type=int, required=True, help="ranks on this node")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder")
    parser.add_argument("command", nargs="+", help="module and its arguments, after --")
    settings = parser.parse_args(arguments)
    with copied_output(settings.run / LOGS / f"node_{socket.gethostname()}.log"):
        return run_node(plan_from_slurm(settings.processes), settings.command, settings.run)


def plan_from_slurm(processes: int) -> NodePlan:
    """This node's place as srun and the batch script tell it; one node where they do not."""
    nodes = whole_number("SLURM_STEP_NUM_NODES", whole_number("SLURM_NNODES", 1, low=1), low=1)
    if nodes == 1:
        return NodePlan(processes)
    missing = [name for name in ("SLURM_NODEID", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"environment: {', '.join(missing)} must be set for {nodes} nodes; start it as pretrain.sbatch does"
        )
    node, port = (whole_number(name, 0) for name in ("SLURM_NODEID", "MASTER_PORT"))
    return NodePlan(processes, nodes, node, os.environ["MASTER_ADDR"], port)


def run_node(plan: NodePlan, command: list[str], run_folder: Path) -> int:
    """Runs ``command`` (a module and its arguments) on this node's ranks; returns the first failed rank's status.

    A rank that a signal killed counts as 128 + the signal's number, as in a shell.
    """
    from torch.distributed import run as torchrun  # seconds to import: `--help` does without
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)  # torchrun's own report of a failed rank; `_report` says it in one line
    try:
        torchrun.run(torchrun.parse_args([*plan.flags(), "--module", *command]))
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        return _report(failures, run_folder)
    except Exception as error:
        print(f"torchrun on {socket.gethostname()}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return TORCHRUN_FAILED
    return 0


def _report(failures: list[tuple[int, Any]], run_folder: Path) -> int:
    host, told = socket.gethostname(), []
    statuses = [status_of(failure.exitcode) for _, failure in failures]
    for (rank, failure), status in zip(failures, statuses, strict=True):
        told.append({"rank": rank, "status": status, "how": describe_status(failure.exitcode)})
    if statuses[0] != 2:  # bad input: the rank has said everything
        with forgiving("the attempt's record does not tell how its ranks ended"):
            current_attempt(run_folder).node_failed(host, told)
        print(f"rank {failures[0][0]} on {host} {told[0]['how']}", file=sys.stderr, flush=True)
    return statuses[0]


def status_of(exit_code: int) -> int:
    """A shell's exit status for Python's: negative exit codes are signals."""
    return 128 - exit_code if exit_code < 0 else exit_code


def describe_status(exit_code: int) -> str:
    """How a process ended, in words: "was killed by SIGKILL"."""
    if exit_code < 0:
        return f"was killed by {_signal_name(-exit_code)}"
    if exit_code == HUNG_STATUS:
        return "was ended by the hang watchdog"
    return f"ended with exit status {exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of real time: they have no names
        return f"signal {number}"


@contextmanager
def copied_output(path: Path) -> Iterator[None]:
    """Appends what this process and its children print to ``path``, and still prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    originals = os.dup(1), os.dup(2)
    with open_itself(path, "ab") as log:
        copier = subprocess.Popen(
            ["tee", "-a", f"/proc/self/fd/{log.fileno()}"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[log.fileno()],
        )
    assert copier.stdin is not None
    for stream in (1, 2):
        os.dup2(copier.stdin.fileno(), stream)
    copier.stdin.close()
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, original in zip((1, 2), originals, strict=True):
            os.dup2(original, stream)
            os.close(original)
        copier.wait()  # tee ends when the last rank has closed the pipe
