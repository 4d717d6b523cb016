"""The part of a run's config that decides which samples it sees, read for `plan` and `trace`.

In: `--config FILE` of a run and overrides. Out: a RunOrder. Always: sections and keys that have no say in the data
are passed over, so that any run's config file will do.
"""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from common import defaults
from common.cli import parse_config
from common.errors import InputError
from common.ranges import LARGEST_SEED, MOST_STEPS, check_range
from common.strict_yaml import read_yaml
from data.batch import BatchConfig
from data.config import DataConfig


@dataclass(frozen=True)
class TrainOrder:
    """As in a run's `train` section."""

    steps: int = defaults.STEPS
    """optimizer steps of the whole run"""

    def __post_init__(self) -> None:
        check_range(self, "train.", "steps", low=1, high=MOST_STEPS)


@dataclass(frozen=True)
class ModelOrder:
    """As in a run's `model` section."""

    vocab_size: int = defaults.VOCABULARY
    """entries of the embedding"""

    def __post_init__(self) -> None:
        check_range(self, "model.", "vocab_size", low=1, high=2**26)


@dataclass(frozen=True)
class RunOrder:
    """What decides which samples a run sees."""

    seed: int = defaults.SEED
    """seed of the order"""
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    train: TrainOrder = field(default_factory=TrainOrder)
    model: ModelOrder = field(default_factory=ModelOrder)
    json: bool = False
    """print JSON"""

    def __post_init__(self) -> None:
        check_range(self, "", "seed", low=0, high=LARGEST_SEED)


Order = TypeVar("Order", bound=RunOrder)


def parse_run_order(config_class: type[Order], arguments: list[str], program: str) -> Order:
    """Builds ``config_class`` from a run's config file and overrides, later ones winning.

    Raises:
        InputError: as common.cli.parse_config does, for the sections that matter here.
    """
    translated: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config" or argument.startswith("--config="):
            path = next(rest, "") if argument == "--config" else argument.partition("=")[2]
            translated += _as_flags(config_class, Path(path))
        else:
            translated.append(argument)
    return parse_config(config_class, translated, program)


def _as_flags(config_class: type[RunOrder], path: Path) -> list[str]:
    """The settings of the YAML file that ``config_class`` knows, as flags."""
    content = read_yaml(path, f"--config {path}")
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: expected a mapping of settings")
    flags = []
    hints = typing.get_type_hints(config_class)
    for section, values in content.items():
        if section not in hints:
            continue
        if isinstance(values, dict) and dataclasses.is_dataclass(hints[section]):
            known = {entry.name for entry in dataclasses.fields(hints[section])}
            keys = values if section == "data" else known.intersection(values)
            flags += [_flag(f"{section}.{key}", values[key]) for key in sorted(keys)]
        else:
            flags.append(_flag(section, values))
    return flags


def _flag(key: str, value: Any) -> str:
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
