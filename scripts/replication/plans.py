"""What a cell does: its training runs, its export, its evaluations, and the digest of all that.

In: a StudyConfig, a Cell with its rate. Out: a Plan, checked as the trainer checks it. Always: the digest is of what
the study says about learning and measuring, not of what the program says by default: a setting that is added to the
program later leaves the results that stand. Names, places and what is saved or logged when are no part of it. So the
file of a study says all settings that matter; what made a result otherwise, its row tells (versions, commit).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.cli import config_from_values
from common.errors import InputError
from common.files import sha256_of_json
from data.batch import BatchConfig
from data.config import DataConfig
from model.counts import parameter_counts
from pretrain.config import RunConfig
from scripts.replication.cells import PLAIN, Cell
from scripts.replication.config import StudyConfig
from scripts.replication.sections import StageSettings

DIGITS = 16
"""of a digest in the names of folders"""
BESIDE_LEARNING = ("checkpoint", "metrics")
"""sections of a run that change neither what is learned nor what is measured"""


@dataclass(frozen=True)
class Stage:
    """A training run."""

    settings: Mapping[str, Any]
    """of the run, without its name and places"""
    corpus: str
    prepared: str | None
    """folder of the corpus, where it was not made by the study"""
    steps: int
    """at most"""
    tokens_per_step: int
    until: float | None
    digest: str
    """of this run and all before it"""

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.digest[:DIGITS]


@dataclass(frozen=True)
class Plan:
    """All that a cell does."""

    cell: Cell
    kind: str
    stages: tuple[Stage, ...]
    targets: tuple[float, ...]
    tasks: tuple[str, ...]
    evaluation: tuple[str, ...]
    parameters: int
    embedding: int
    """parameters of the embedding among them"""
    digest: str

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.digest[:DIGITS]

    @property
    def most_tokens(self) -> int:
        """Trained on, if no stage ends early."""
        return sum(stage.steps * stage.tokens_per_step for stage in self.stages)


def plan_of(config: StudyConfig, cell: Cell) -> Plan:
    """The plan of a cell whose rate is known.

    Raises:
        InputError: its settings make no run.
    """
    assert cell.rate is not None
    part = config.part(cell.part)
    stages: list[Stage] = []
    for settings in part.stages:
        stages.append(_stage(config, cell, settings, stages[-1].digest if stages else None))
    run = checked(stages[-1].settings, cell.label)
    counts = parameter_counts(run.model)
    measured = {"tasks": part.tasks, "evaluation": part.evaluation, "targets": part.targets}
    return Plan(
        cell=cell,
        kind=run.model.attention,
        stages=tuple(stages),
        targets=tuple(part.targets),
        tasks=tuple(part.tasks),
        evaluation=tuple(part.evaluation),
        parameters=sum(counts.values()),
        embedding=counts["embedding"],
        digest=sha256_of_json({"run": stages[-1].digest, "measured": measured}),
    )


def _stage(config: StudyConfig, cell: Cell, stage: StageSettings, origin: str | None) -> Stage:
    part = config.part(cell.part)
    settings: dict[str, Any] = {}
    for more in (
        config.training,
        part.training,
        stage.training,
        config.size(cell.size).training,
        {"model": config.size(cell.size).model},
        {"model": config.column(cell.column).model},
        {"model": config.variant(cell.variant).model if cell.variant != PLAIN else {}},
        {"seed": cell.seed, "optimizer": {"learning_rate": cell.rate}},
    ):
        settings = merged(settings, more)
    tokens_per_step = _setting(settings, "batch", "global_size", BatchConfig()) * _setting(
        settings, "data", "sequence_length", DataConfig()
    )
    steps = (stage.tokens or cell.tokens) // tokens_per_step
    if not steps:
        raise InputError(f"{cell.label}: fewer tokens than one step has ({tokens_per_step})")
    settings = merged(settings, {"train": {"steps": steps}})
    corpus = config.corpus(stage.corpus)
    definition = {
        "settings": {name: value for name, value in settings.items() if name not in BESIDE_LEARNING},
        "corpus": asdict(corpus),
        "until": stage.until,
        "origin": origin,
    }
    return Stage(
        settings, corpus.name, corpus.prepared, steps, tokens_per_step, stage.until, sha256_of_json(definition)
    )


def _setting(settings: Mapping[str, Any], section: str, key: str, default: Any) -> int:
    return int(settings.get(section, {}).get(key, getattr(default, key)))


def merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; ``more`` wins."""
    result = dict(settings)
    for name, value in more.items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def run_values(stage: Stage, text: Path, run: Path, origin: Path | None) -> dict[str, Any]:
    """The settings of its run with name and places. While it waits for a loss, a checkpoint stands at every evaluation,
    because which one comes to be the last is not known.

    Args:
        text: folder with train/ and validation/.
        run: its folder.
        origin: checkpoint that it goes on from.
    """
    checkpoint: dict[str, Any] = {"branch_from": str(origin)} if origin is not None else {}
    if stage.until is not None:
        checkpoint |= {"every": stage.settings.get("evaluation", {}).get("every", 100), "keep": 0}
    places = {
        "name": f"stage-{stage.key}",  # digits with an e among them would be read as a number
        "run_dir": str(run),
        "data": {"train": [{"path": str(text / "train")}], "validation": str(text / "validation")},
        "checkpoint": checkpoint,
    }
    return merged(stage.settings, places)


def checked(settings: Mapping[str, Any], label: str) -> RunConfig:
    """The run that these settings make; its seed, rate and steps mean nothing.

    Raises:
        InputError: they make none.
    """
    alike = {name: value for name, value in settings.items() if name != "seed"}
    alike |= {
        section: {key: value for key, value in settings.get(section, {}).items() if key != own}
        for section, own in (("optimizer", "learning_rate"), ("train", "steps"))
    }
    try:
        return _checked(yaml.safe_dump(alike))
    except InputError as error:
        raise InputError(f"{label}: {error}") from None


@cache
def _checked(settings: str) -> RunConfig:
    """Many cells differ in nothing but their seeds, rates and steps, which the study has checked itself."""
    return config_from_values(RunConfig, yaml.safe_load(settings), "training")
