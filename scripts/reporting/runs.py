"""What a run folder tells: config, where it stands, metrics, evaluations, samples of text, lambda per layer.

In: a run folder. Out: a RunFacts. Always: a part that is not there is empty, and only a folder without a config is an
error; nothing is written.
"""

import dataclasses
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import parse_config
from common.errors import InputError
from model.kinds.registry import kind_of
from pretrain.checkpoint.layout import checkpoints_of, list_steps
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.places import CONFIG_FILE, EVALUATIONS, LOSS_FILE
from pretrain.resilience.attempts import SKIPPED_FILE
from pretrain.standing import Status, read_status
from pretrain.step_lines import TELEMETRY, read_steps
from pretrain.texts import read_texts
from scripts.evaluation.result import read_model, read_results


@dataclass(frozen=True)
class RunFacts:
    """What the report shows of one run."""

    name: str
    config: RunConfig
    status: Status | None
    """where it stands; None: it has not begun"""
    training: list[dict[str, Any]]
    """metrics of logged steps"""
    validation: list[dict[str, Any]]
    """metrics of evaluations"""
    evaluations: dict[str, dict[str, Any]]
    """task -> its part of a results file"""
    pictures: dict[str, bytes]
    """task -> PNG"""
    skipped: list[dict[str, Any]]
    """steps that were kept from the weights, with their reasons"""
    texts: dict[int, str]
    """step of the model -> a sample of text that it wrote"""
    lambdas: dict[int, list[float]]
    """step of a checkpoint -> lambda of every layer"""
    inside: dict[int, dict[str, Any]]
    """step -> its numbers from inside the model (scripts/reporting/telemetry.py)"""

    def settings(self) -> dict[str, Any]:
        """The config as flat keys, as in ``model.rank``."""
        return _flat(dataclasses.asdict(self.config))


def read_run(folder: Path) -> RunFacts:
    """Reads ``folder``.

    Raises:
        InputError: no run there.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{folder}: no run there ({CONFIG_FILE} is missing)")
    config = parse_config(RunConfig, ["--config", str(path)], "report")
    lines = read_steps(folder / LOSS_FILE)
    evaluations, pictures = _read_evaluations(folder / EVALUATIONS)
    return RunFacts(
        name=config.name,
        config=config,
        status=_read_status(folder),
        training=[line for line in lines if line.get("loss") is not None],
        validation=[line for line in lines if line.get("validation_loss") is not None],
        evaluations=evaluations,
        pictures=pictures,
        skipped=read_steps(folder / SKIPPED_FILE),
        texts=read_texts(folder),
        inside={line["step"]: line[TELEMETRY] for line in lines if line.get(TELEMETRY)},
        lambdas=_read_lambdas(checkpoints_of(folder), config),
    )


def _read_status(folder: Path) -> Status | None:
    try:
        return read_status(folder)
    except InputError:
        return None  # a config, and nothing that was trained; damage is told by those who read the rest


def _read_evaluations(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
    """The tasks of all results files; those of a later step win, and no clock is asked."""
    evaluations: dict[str, dict[str, Any]] = {}
    pictures: dict[str, bytes] = {}
    files = {path: found for path in folder.glob("*.json") if path.is_file() and (found := _read_results(path))}
    for path in sorted(files, key=lambda path: _place(path, files[path][0].get("step"))):
        for task, values in files[path][1].items():
            evaluations[task] = values
            picture = path.parent / Path(values.get("picture") or task).name
            if picture.is_file():
                with suppress(FileNotFoundError):
                    pictures[task] = picture.read_bytes()
    return evaluations, pictures


def _read_results(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]] | None:
    """What a results file says about its model and its tasks; None: it has just gone."""
    try:
        return read_model(path), read_results(path)
    except InputError:
        if path.exists():
            raise
        return None


def _place(results: Path, step: Any) -> tuple[int, list[str | int]]:
    """By the step of the model, where it is known, then by name, in which numbers count as numbers."""
    parts = re.split(r"([0-9]{1,18})", results.stem)
    name = [int(part) if number % 2 else part for number, part in enumerate(parts)]
    return (step if isinstance(step, int) else -1), name


def _read_lambdas(checkpoints: Path, config: RunConfig) -> dict[int, list[float]]:
    """lambda of every layer in every checkpoint that is still there; empty where only tokens decide on it."""
    found = {}
    for folder in list_steps(checkpoints):
        try:
            reader = CheckpointReader(folder)
            lambdas = [_lambda(reader, config, layer) for layer in range(config.model.num_layers)]
        except (InputError, OSError):
            continue  # a damaged checkpoint has no say here, nor one that goes while it is read
        known = [value for value in lambdas if value is not None]
        if known:
            found[reader.step] = known
    return found


def _lambda(reader: CheckpointReader, config: RunConfig, layer: int) -> float | None:
    kind = kind_of(config.model)
    return kind.constant_lambda(config.model, layer, lambda name: reader.read(f"blocks.{layer}.attention.{name}"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
