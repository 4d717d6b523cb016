"""A cell from nothing to its figures: runs, export, evaluations.

In: a Plan, folders. Out: a Row. Always: what stands of an earlier start is used; a figure is read off files that the
project's own commands wrote, so each can be traced to them. A cell whose run diverged has figures, too: None.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from scripts.evaluation.result import read_results
from scripts.replication.folders import Folders
from scripts.replication.plans import Plan
from scripts.replication.rows import Row, row_of
from scripts.replication.sections import PartSettings
from scripts.replication.training import Trained, first_at_most, train, train_command
from scripts.retrieval.commands import run_logged

Figures = dict[str, float | None]
CORPORA = "{corpora}"
"""in the arguments of evaluations: the folder of the study's texts"""
OF_EVALUATIONS = ("validation_loss", "validation_bits_per_byte", "validation_ar_hit_loss", "validation_others_loss")
"""what the last evaluation of the trainer says"""


Lock = Callable[[str], AbstractContextManager[object]]
"""of a run by its key"""


def measure(plan: Plan, part: PartSettings, folders: Folders, threads: int | None, lock: Lock) -> Row:
    """Runs a cell.

    Args:
        threads: processor threads of its processes.
        lock: two cells may share a run, and must not train it at the same time.
    """
    started = time.monotonic()
    trained: list[Trained] = []
    for number, stage in enumerate(plan.stages):
        goes_on = number + 1 < len(plan.stages) or bool(plan.tasks)
        with lock(stage.key):
            trained.append(train(stage, folders, trained[-1].checkpoint if trained else None, goes_on, threads))
        if trained[-1].diverged:
            break
    figures, within = figures_of(plan, trained), dict[str, tuple[float, float]]()
    if plan.tasks and not trained[-1].diverged:
        for command in evaluation_commands(plan, folders, trained[-1].step):
            run_logged(command, folders.log(plan.key), plan.cell.label, threads)
        found = task_figures(folders.results(plan))
        figures |= {name: figure["value"] for name, figure in found.items()}
        within = {
            name: (figure["low"], figure["high"]) for name, figure in found.items() if figure.get("low") is not None
        }
    seconds = {"cell": time.monotonic() - started, "training": sum(stage.seconds for stage in trained)}
    row = row_of(plan, part.measures, figures, seconds, within)
    if plan.targets:
        losses = [(line["step"], line["validation_loss"]) for line in trained[0].lines]
        row["curve"] = [[step, round(loss, 4)] for step, loss in losses if loss is not None]
    return row


def figures_of(plan: Plan, trained: list[Trained]) -> Figures:
    """What the runs themselves tell."""
    last = trained[-1]
    complete = len(trained) == len(plan.stages) and not last.diverged
    final = last.lines[-1] if last.lines and complete else {}
    figures: Figures = {name: final[name] for name in OF_EVALUATIONS if name in final}
    if not complete:
        figures["validation_loss"] = None
    figures["trained_tokens"] = sum(
        done.step * stage.tokens_per_step for done, stage in zip(trained, plan.stages, strict=False)
    )
    figures["skipped_steps"] = sum(done.skipped for done in trained)
    figures["diverged"] = float(last.diverged)
    for target in plan.targets:
        figures[f"steps_to_{target:g}"] = first_at_most(trained[0].lines, target)
    if len(plan.stages) > 1:
        for number, done in enumerate(trained, start=1):
            figures[f"stage_{number}_steps"] = done.step
            figures[f"stage_{number}_reached"] = float(done.reached)
    return figures


def evaluation_commands(plan: Plan, folders: Folders, step: int) -> list[list[str]]:
    """Export and evaluation, behind `python`."""
    run, exported, results = folders.run(plan.stages[-1]), folders.export(plan), folders.results(plan)
    arguments = [argument.replace(CORPORA, str(folders.corpora)) for argument in plan.evaluation]
    evaluate = ["scripts/evaluate.py", "--model", str(exported), "--tasks", ",".join(plan.tasks)]
    return [
        ["scripts/export.py", "--run", str(run), "--step", str(step), "--output", str(exported)],
        [*evaluate, "--output", str(results), "--seed", str(plan.cell.seed), *arguments],
    ]


def task_figures(results: Path) -> dict[str, dict[str, Any]]:
    """All metrics of all tasks, as TASK.METRIC, and the estimates among their details, as TASK.KIND.KEY.

    Each has its `value`, and where it is an estimate `low` and `high`.
    """
    figures: dict[str, dict[str, Any]] = {}
    for task, values in read_results(results).items():
        for name, metric in values["metrics"].items():
            figures[f"{task}.{name}"] = metric
        for kind, row in (values.get("details") or {}).items():
            for key, found in row.items() if isinstance(row, dict) else ():
                if isinstance(found, dict) and "value" in found:
                    figures[f"{task}.{kind}.{key}"] = found
    return figures


def commands_of(plan: Plan, folders: Folders) -> list[list[str]]:
    """All commands of a cell, as ``--trace`` tells them; the step of an export is the last one that a run may have."""
    commands = [train_command(stage, folders) for stage in plan.stages]
    return commands + (evaluation_commands(plan, folders, plan.stages[-1].steps) if plan.tasks else [])
