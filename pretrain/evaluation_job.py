"""Starts the user's own evaluation of every checkpoint, beside training.

In: a command line such as ``sbatch evaluate.sbatch {run} {step}``. Out: a process that training does not wait for.
Always: its output goes to logs/evaluation_STEP.log; a command that cannot start is a warning, never the end of a run.
"""

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluationJob:
    """``command`` for checkpoints of the run in ``run_folder``."""

    command: str
    run_folder: Path

    def start(self, checkpoint: Path, step: int) -> None:
        """Starts the command for one checkpoint and returns at once."""
        values = {"{run}": str(self.run_folder), "{checkpoint}": str(checkpoint), "{step}": str(step)}
        line = self.command
        for place, value in values.items():
            line = line.replace(place, shlex.quote(value))
        log = self.run_folder / "logs" / f"evaluation_{step:08d}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                subprocess.Popen(
                    ["/bin/sh", "-c", line],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            print(f"WARNING: evaluation.command of step {step} did not start: {error}", flush=True)
