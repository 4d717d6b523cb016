"""Starts the user's own evaluation of every checkpoint, beside training.

In: a command line such as ``sbatch evaluate.sbatch {run} {step}``. Out: a process that training does not wait for.
Always: its output goes to logs/evaluation_STEP.log; a command that cannot start is a warning, never the end of a run;
no name of a run or folder is read as code.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.files import open_itself
from pretrain.evaluation_command import SHELL, VARIABLES, check_command, shell_code
from pretrain.places import LOGS

OF_A_RANK = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
"""variables that torchrun sets for its ranks; the command is no rank, and does not get them"""
OF_A_STEP = (
    *("SLURM_CPU_BIND", "SLURM_MEM_BIND", "SLURM_MEM_PER_", "SLURM_CPUS_PER_TASK", "SLURM_TRES_PER_TASK"),
    *("SLURM_STEP", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_TASK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    *("SLURM_GTIDS", "SLURM_DISTRIBUTION", "SLURM_LABELIO", "SLURM_KILL_BAD_EXIT"),
)
"""variables that srun sets for its tasks; a job that the command submits would obey them, and does not get them"""


@dataclass(frozen=True)
class EvaluationJob:
    """``command`` for checkpoints of the run in ``run_folder``."""

    command: str
    run_folder: Path

    def start(self, checkpoint: Path, step: int) -> None:
        """Starts the command for one checkpoint and returns at once."""
        values = {"{run}": _word(self.run_folder), "{checkpoint}": _word(checkpoint), "{step}": str(step)}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_RANK + OF_A_STEP)}
        log = self.run_folder / LOGS / f"evaluation_{step:08d}.log"
        try:
            check_command(self.command, self.run_folder)
            log.parent.mkdir(parents=True, exist_ok=True)
            with open_itself(log, "ab") as output:
                subprocess.Popen(
                    [SHELL, "-c", shell_code(self.command)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=environment | {variable: values[place] for place, variable in VARIABLES.items()},
                )
        except (OSError, InputError) as error:
            print(f"WARNING: evaluation.command of step {step} did not start: {error}", flush=True)


def _word(path: Path) -> str:
    """``path``, which no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
