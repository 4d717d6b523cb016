"""Slurm's commands as small shell scripts, so that the batch script can be run without Slurm.

In: what srun does, as shell lines. Out: a PATH on which the commands leave a record in `calls`.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launch.slurm.script import Job, render
from launch.slurm.site import Site

IN_CONTAINER = """\
PATH=${PATH#*:} # an image without Slurm's commands
while [ "$1" != python ]; do shift; done
exec "$@"
"""
SRUN = """\
case "$*" in *" -m launch begin"* | *" -m launch conclude"*) {container} ;; esac
echo srun >>"$RECORD/calls"
A=$RUN/attempts/$(printf %04d "$PRETRAIN_ATTEMPT")
{rank}
"""
SCONTROL = """\
case "$1" in
  show) printf 'node1\\nnode2\\n' ;;
  requeue) echo "requeue $2" >>"$RECORD/calls" ;;
esac
"""


@dataclass
class FakeSlurm:
    """A folder of commands, and what they were called for."""

    folder: Path
    srun: str
    """what one srun does; $RUN is the run folder, $PRETRAIN_ATTEMPT the attempt"""
    state: str = "RUNNING"
    """what squeue says of the job"""
    sinfo: str = "true"
    site: Site = field(default_factory=Site)

    def __post_init__(self) -> None:
        commands = {
            "scontrol": SCONTROL,
            "squeue": f"echo {self.state}",
            "sinfo": self.sinfo,
            "apptainer": IN_CONTAINER,
            "srun": SRUN.format(container=IN_CONTAINER, rank=self.srun),
        }
        for name, lines in commands.items():
            path = self.folder / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/bash\n{lines}\n")
            path.chmod(0o755)

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def calls(self) -> list[str]:
        """srun and requeue, in order."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def start(
        self, tries: int = 3, restarts: int = 0, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Runs the rendered script as Slurm would, with ``environment`` around it."""
        (self.run / "logs").mkdir(parents=True, exist_ok=True)
        script = self.folder / "job.sbatch"
        script.write_text(render(Job("test", 2, self.run, ["--config", "x"], Path.cwd(), tries), self.site))
        with (self.run / "logs/run.log").open("a") as log:
            return subprocess.Popen(
                ["bash", str(script)],
                stdout=log,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                    "RECORD": str(self.folder),
                    "RUN": str(self.run),
                    "SLURM_JOB_ID": "12",
                    "SLURM_JOB_NODELIST": "node[1-2]",
                    "SLURM_NNODES": "2",
                    "SLURM_RESTART_COUNT": str(restarts),
                    **(environment or {}),
                },
            )
