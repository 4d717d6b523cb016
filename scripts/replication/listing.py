"""What stands and what is to do; what is behind a figure.

In: a Grid. Out: lines. Always: nothing is run.
"""

import shlex
from collections.abc import Iterator

from common.errors import InputError, nearest
from scripts.replication.claims import claims_of
from scripts.replication.config import StudyConfig
from scripts.replication.estimates import Estimator
from scripts.replication.folders import Folders
from scripts.replication.grid import Entry, Grid
from scripts.replication.measuring import commands_of
from scripts.replication.plans import Plan
from scripts.replication.working import in_words


def listed(grid: Grid, estimator: Estimator, jobs: int) -> Iterator[str]:
    """A line for each cell, and sums by part; a run that cells share counts once."""
    left: dict[str, list[Plan]] = {}
    entries = grid.entries()
    for entry in entries:
        yield f"{entry.plan.cell.label}: {_state(entry, estimator.seconds([entry.plan]))}"
        left.setdefault(entry.plan.cell.part, []).extend([entry.plan] if entry.row is None else [])
    yield ""
    everything = [plan for plans in left.values() for plan in plans]
    for part, plans in [*left.items(), ("all", everything)]:
        seconds = estimator.seconds(plans) / jobs
        yield f"{part}: {len(plans)} cells, about {in_words(seconds)} left with {jobs} at a time"
    yield f"{len(entries)} cells in all"


def _state(entry: Entry, seconds: float) -> str:
    if entry.row is not None:
        value = entry.row["value"]
        return f"stands, {entry.row['measures']} {'-' if value is None else f'{value:.6g}'} (digest {entry.plan.key})"
    return f"{'waits for the sweep' if entry.waits else 'to do'}, about {seconds:.0f} s"


def traced(name: str, config: StudyConfig, grid: Grid, folders: Folders) -> Iterator[str]:
    """What is behind a cell, or behind a claim: its cells; of each its row's facts, its folders and commands.

    Raises:
        InputError: no cell and no claim has this name.
    """
    entries = {entry.plan.cell.label: entry for entry in grid.entries()}
    claims = claims_of(config)
    claim = next((claim for claim in claims if claim.name == name), None)
    if claim is not None:
        yield f"{claim.name}: {claim.sentence}"
        yield f"how: {claim.how}"
        labels = [row["label"] for row in grid.rows(claim.part)]
    elif name in entries:
        labels = [name]
    else:
        known = [*entries, *(claim.name for claim in claims)]
        raise InputError(f"--trace: no cell and no claim is called '{name}'{nearest(name, known)} --list has the cells")
    for label in labels:
        yield ""
        yield from _behind(entries[label], folders)


def _behind(entry: Entry, folders: Folders) -> Iterator[str]:
    plan, row = entry.plan, entry.row
    yield f"{plan.cell.label}: {_state(entry, 0.0) if row is not None else 'not measured'}"
    yield f"  rate {plan.cell.rate:g}, {plan.parameters:,} parameters ({plan.embedding:,} of them embedding)"
    if row is not None:
        made = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        yield f"  measured in {row['seconds']:.0f} s at commit {row['commit'] or 'unknown'}: {made}"
    for stage in plan.stages:
        there = "" if folders.run(stage).exists() else " (no longer there; the commands make it again)"
        yield f"  run: {folders.run(stage)}{there}"
    for command in commands_of(plan, folders):
        yield f"  $ python {shlex.join(command)}"
