"""A stage of a cell: its training run, from wherever it was interrupted, to its end.

In: a Stage, its folders, the checkpoint that it goes on from. Out: a Trained. Always: the end is a function of the
run's lines alone. A stage that waits for a loss ends with the first evaluation at or below it, and the next goes on
from the checkpoint of that very step; how much further the run had come when it was told to end changes nothing.
"""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import config_from_values, to_yaml
from common.errors import InputError
from common.files import write_atomically
from pretrain.checkpoint.layout import MANIFEST, checkpoints_of, list_steps, step_folder, step_of
from pretrain.config import RunConfig
from pretrain.places import LOSS_FILE
from pretrain.resilience.attempts import SKIPPED_FILE, Outcome, read_attempts
from pretrain.step_lines import read_steps
from scripts.replication.folders import Folders
from scripts.replication.plans import Stage, run_values
from scripts.retrieval.commands import CommandError, run_logged


@dataclass(frozen=True)
class Trained:
    """A stage that has ended."""

    folder: Path
    step: int
    """its last"""
    reached: bool
    """the loss that it waited for; True where it waited for none"""
    diverged: bool
    """the run gave up: its losses were not finite"""
    lines: list[dict[str, Any]]
    """of its evaluations, up to its last step"""
    skipped: int
    """steps that were kept from the weights"""
    seconds: float
    """that its steps took, by its own lines"""

    @property
    def checkpoint(self) -> Path:
        """Of its last step."""
        return step_folder(checkpoints_of(self.folder), self.step)


def train(stage: Stage, folders: Folders, origin: Path | None, goes_on: bool, threads: int | None) -> Trained:
    """Trains what is missing.

    Args:
        origin: checkpoint that it goes on from.
        goes_on: something goes on from its own: another stage, or an export.
        threads: processor threads of its process.

    Raises:
        CommandError: the run failed otherwise than by diverging.
    """
    ended = stage_ended(stage, folders, goes_on)
    if ended is not None:
        return ended
    prepare_config(stage, folders, origin)
    try:
        run_logged(
            train_command(stage, folders),
            folders.log(stage.key),
            f"run {stage.key}",
            threads,
            lambda: stage.until is not None and stage_ended(stage, folders, goes_on) is not None,
        )
    except CommandError:
        if not _gave_up(folders.run(stage)):
            raise
    ended = stage_ended(stage, folders, goes_on)
    if ended is None:
        raise InputError(f"run {stage.key}: ended early; {folders.log(stage.key)} has its last words")
    for folder in list_steps(checkpoints_of(ended.folder)):
        if step_of(folder) != ended.step:
            shutil.rmtree(folder)
    return ended


def train_command(stage: Stage, folders: Folders) -> list[str]:
    """The command that trains, behind `python`."""
    return ["-m", "pretrain", "--config", str(folders.config(stage))]


def prepare_config(stage: Stage, folders: Folders, origin: Path | None) -> None:
    """Writes the config file of a run."""
    values = run_values(stage, folders.text(stage), folders.run(stage), origin)
    write_atomically(folders.config(stage), to_yaml(config_from_values(RunConfig, values, str(folders.config(stage)))))


def stage_ended(stage: Stage, folders: Folders, goes_on: bool) -> Trained | None:
    """The stage as it ended; None while it has not."""
    run = folders.run(stage)
    all_lines = read_steps(run / LOSS_FILE)
    evaluations = [line for line in all_lines if "validation_loss" in line]
    last = end_of(evaluations, stage.steps, stage.until)
    diverged = last is None and _gave_up(run)
    if last is None and not diverged:
        return None
    step = last["step"] if last is not None else max((line["step"] for line in all_lines), default=0)
    trained = Trained(
        folder=run,
        step=step,
        reached=last is not None and (stage.until is None or _at_most(last, stage.until)),
        diverged=diverged,
        lines=[line for line in evaluations if line["step"] <= step],
        skipped=len([line for line in read_steps(run / SKIPPED_FILE) if line["step"] <= step]),
        seconds=_seconds(all_lines, step),
    )
    # A run that waits for a loss may be shared with a cell that goes on from it, whether or not this one does.
    is_needed = (goes_on or stage.until is not None) and not diverged
    if is_needed and not (trained.checkpoint / MANIFEST).exists():
        return None  # it is being written, or was removed
    return trained


def end_of(evaluations: Sequence[dict[str, Any]], steps: int, until: float | None) -> dict[str, Any] | None:
    """The line with which a run ends: the first one at or below ``until``, or that of the last step."""
    for line in evaluations:
        if (until is not None and _at_most(line, until)) or line["step"] >= steps:
            return line
    return None


def first_at_most(evaluations: Sequence[dict[str, Any]], loss: float) -> int | None:
    """Step of the first evaluation at or below ``loss``; None: there is none."""
    return next((line["step"] for line in evaluations if _at_most(line, loss)), None)


def _at_most(line: dict[str, Any], loss: float) -> bool:
    return line["validation_loss"] is not None and line["validation_loss"] <= loss


def _gave_up(run: Path) -> bool:
    attempts = read_attempts(run)
    return bool(attempts) and attempts[-1].outcome is Outcome.GAVE_UP


def _seconds(lines: Sequence[dict[str, Any]], last: int) -> float:
    """Seconds of the steps up to ``last``: each logged line says what a step took since the line before."""
    logged = [line for line in lines if line.get("step_seconds") and line["step"] <= last]
    steps = [0, *(line["step"] for line in logged)]
    spans = (after - before for before, after in itertools.pairwise(steps))
    return float(sum(span * line["step_seconds"] for span, line in zip(spans, logged, strict=True)))
