"""`python -m launch COMMAND ...`: starts, watches and requeues runs."""

import importlib
import os
import sys

from common.cli import run_command
from common.errors import InputError, nearest
from launch.relay import SignalRelay

COMMANDS = {
    "local": ("launch.local", "train on this machine: torchrun with checks before it"),
    "slurm": ("launch.slurm.submit", "submit a job that looks after itself"),
    "status": ("launch.status", "where a run stands, from its folder"),
    "preflight": ("launch.preflight", "check a config, and the nodes under srun or torchrun, before training"),
    "torchrun": ("launch.torchrun", "this node's part of a job: torchrun that passes signals on (run by srun)"),
    "begin": ("launch.slurm.begin", "open an attempt (run by the batch script)"),
    "conclude": ("launch.slurm.conclude", "judge an attempt that has ended (run by the batch script)"),
}


STARTS_RANKS = {"local", "torchrun"}


def main(arguments: list[str]) -> int:
    """Hands the arguments to the command's module, whose ``main`` returns the exit status."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("usage: python -m launch COMMAND ...\n")
        print("\n".join(f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()))
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        raise InputError(
            f"launch {command}: no such command{nearest(command, COMMANDS)}; there are {', '.join(COMMANDS)}"
        )
    if command in STARTS_RANKS:
        SignalRelay().start()
    module = importlib.import_module(COMMANDS[command][0])
    status: int = module.main(rest)
    return status


if __name__ == "__main__":
    quiet = os.environ.get("RANK", "0") != "0"
    sys.exit(run_command(main, sys.argv[1:], quiet, training=not STARTS_RANKS.isdisjoint(sys.argv[1:2])))
