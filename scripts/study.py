"""The papers' claims with seeds: `python scripts/study.py --config studies/desk.yaml [--section.key value ...]`.

In: a study's file. Out: its runs and evaluations, RESULTS/PART.json, and the page with a verdict for each claim.
Always: a cell that has a result is never run again, and what was interrupted goes on, so the command may be killed at
any moment; called again at the end, it only checks and draws.
"""

import os
import sys
from pathlib import Path

from common.cli import parse_config, run_command
from common.errors import InputError, nearest
from common.file_lock import only_holder
from common.flags import FlagParser
from common.ranges import MOST_WORKERS, check_range
from scripts.replication.config import StudyConfig
from scripts.replication.corpora import build, check_recipe
from scripts.replication.estimates import Estimator
from scripts.replication.folders import Folders
from scripts.replication.grid import Grid
from scripts.replication.listing import listed, traced
from scripts.replication.measuring import Lock, measure
from scripts.replication.page import write_page
from scripts.replication.plans import Plan
from scripts.replication.rows import Results, Row
from scripts.replication.slurm import render_all
from scripts.replication.working import work


def main(arguments: list[str]) -> None:
    """Entry point."""
    cores = len(os.sched_getaffinity(0))
    parser = FlagParser(prog="python scripts/study.py", description=__doc__)
    parser.add_argument("--config", required=True, help="the study, as in studies/desk.yaml")
    parser.add_argument("--only", default="", help="parts to work on, as in scaling,copying (default: all)")
    parser.add_argument("--jobs", type=int, default=cores, help="cells at a time (default: %(default)s, the cores)")
    parser.add_argument("--list", action="store_true", help="print the cells, how they stand and what they will take")
    parser.add_argument("--trace", help="print what is behind a cell (by its label), or behind a claim (by its name)")
    flags, overrides = parser.parse_known_args(arguments)
    check_range(flags, "--", "jobs", low=1, high=MOST_WORKERS)
    config = parse_config(StudyConfig, ["--config", flags.config, *overrides], "python scripts/study.py")
    only = _parts(config, flags.only)
    for corpus in config.corpora:
        check_recipe(corpus)
    folders, results = Folders(Path(config.work)), Results(Path(config.results))
    grid, estimator = Grid(config, results, only), Estimator(config)
    for part in config.parts:
        estimator.learn(results.rows(part.name))
    if flags.trace is not None:
        print("\n".join(traced(flags.trace, config, Grid(config, results), folders)))
    elif flags.list:
        print("\n".join(listed(grid, estimator, flags.jobs)))
    else:
        _run(config, grid, results, estimator, folders, flags.jobs, max(1, cores // flags.jobs))
        print(f"page: {write_page(config, Grid(config, results))}")


def _run(
    config: StudyConfig,
    grid: Grid,
    results: Results,
    estimator: Estimator,
    folders: Folders,
    jobs: int,
    threads: int,
) -> None:
    if all(entry.row is not None for entry in grid.entries()):
        return
    folders.work.mkdir(parents=True, exist_ok=True)
    with only_holder(folders.work / "lock", f"{folders.work}: another study is at work there; name another `work`"):
        needed = {stage.corpus for entry in grid.entries() if entry.row is None for stage in entry.plan.stages}
        for name in sorted(needed):
            build(config.corpus(name), folders.corpora)
        if config.slurm is not None:
            render_all(config, grid, results, folders)
            return

        def run(plan: Plan, lock: Lock) -> Row:
            return measure(plan, config.part(plan.cell.part), folders, threads, lock)

        def finished(plan: Plan, needed: set[str]) -> None:
            if not config.keep_runs:
                folders.tidy(plan, needed)

        work(grid, results, estimator, run, jobs, finished)


def _parts(config: StudyConfig, text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    known = [part.name for part in config.parts]
    for name in names:
        if name not in known:
            raise InputError(f"--only: unknown part '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
