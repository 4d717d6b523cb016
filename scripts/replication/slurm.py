"""A study whose cells are too large for this machine: a batch script for each of their runs, instead of running them.

In: a Grid, SlurmSettings. Out: WORK/slurm/NUMBER_RUN.sbatch, one for each run that can start and has not ended.
Always: the scripts are those of `python -m launch slurm --dry-run`; the study's command, called again, measures what
has ended and renders what could not start before: cells that waited for a sweep, and later stages.
"""

import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

from common.files import write_atomically
from scripts.replication.config import StudyConfig
from scripts.replication.folders import Folders
from scripts.replication.grid import Grid
from scripts.replication.measuring import measure
from scripts.replication.plans import Plan
from scripts.replication.rows import Results
from scripts.replication.sections import SlurmSettings
from scripts.replication.training import prepare_config, stage_ended
from scripts.retrieval.commands import CommandError


def render_all(config: StudyConfig, grid: Grid, results: Results, folders: Folders) -> None:
    """Measures the cells whose runs have ended, and writes scripts for the others.

    Cells that share a run share a script. The numbers are the order in which cells are worked on.
    """
    assert config.slurm is not None
    scripts: dict[Path, None] = {}
    locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
    for number, entry in enumerate(grid.entries()):
        if entry.row is not None or entry.waits:
            continue
        nodes = config.size(entry.plan.cell.size).nodes
        script = render(entry.plan, folders, config.slurm, nodes, number)
        if script is None:
            results.add(measure(entry.plan, config.part(entry.plan.cell.part), folders, None, locks.__getitem__))
        else:
            scripts[script] = None
    waiting = sum(entry.waits for entry in grid.entries())
    print(f"{len(scripts)} scripts to submit in {folders.work / 'slurm'}; {waiting} cells wait for a sweep")


def render(plan: Plan, folders: Folders, slurm: SlurmSettings, nodes: int, number: int) -> Path | None:
    """Writes the script of the first run of a cell that has not ended; None: all have, and the cell can be measured.

    Raises:
        CommandError: the launcher refuses the run.
    """
    origin: Path | None = None
    for place, stage in enumerate(plan.stages):
        goes_on = place + 1 < len(plan.stages) or bool(plan.tasks)
        ended = stage_ended(stage, folders, goes_on)
        if ended is None:
            prepare_config(stage, folders, origin)
            script = folders.work / "slurm" / f"{number:04d}_{stage.key}.sbatch"
            write_atomically(script, _rendered(launch_command(folders.config(stage), slurm, nodes), plan.cell.label))
            return script
        if ended.diverged:
            return None
        origin = ended.checkpoint
    return None


def launch_command(config: Path, slurm: SlurmSettings, nodes: int) -> list[str]:
    """The command that prints a script, behind `python`."""
    return ["-m", "launch", "slurm", "--dry-run", "--nodes", str(nodes), *slurm.arguments, "--config", str(config)]


def _rendered(command: list[str], label: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no message").splitlines()[-1]
        raise CommandError(f"{label}: {said}")
    return done.stdout
