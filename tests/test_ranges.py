"""No command takes a number without meaning: every number of every command's settings has bounds."""

import math
import typing
from typing import Any

import pytest

from common.errors import InputError
from data.adopt import AdoptConfig
from data.batch import BatchConfig
from data.prepare import PrepareConfig
from data.run_order import ModelOrder, RunOrder, TrainOrder
from data.trace import TraceConfig
from data.verify import VerifyConfig
from launch.slurm.site import Site
from scripts.evaluation import settings as evaluation
from scripts.export import ExportConfig
from scripts.retrieval.extension import ExtensionSettings
from scripts.train_retrieval import RetrievalConfig


def kinds_of(hint: Any) -> set[Any]:
    """The plain types that ``hint`` is made of."""
    inner = typing.get_args(hint)
    return {hint} if not inner else set().union(*map(kinds_of, inner))


NEEDED: dict[Any, dict[str, Any]] = {
    PrepareConfig: {"input": ["x"], "output": "y"},
    AdoptConfig: {"input": ["x"], "output": "y", "tokenizer": "z"},
    VerifyConfig: {"input": ["x"]},
    TraceConfig: {"text": "a"},
    BatchConfig: {},
    ModelOrder: {},
    RunOrder: {},
    TrainOrder: {},
    Site: {},
    ExportConfig: {"run": "x", "output": "y"},
    RetrievalConfig: {},
    ExtensionSettings: {},
    evaluation.EvaluateConfig: {"model": "x", "tasks": "sample"},
    evaluation.HeldOutSettings: {},
    evaluation.SampleSettings: {},
    evaluation.ArHitSettings: {},
    evaluation.InContextSettings: {},
    evaluation.HarnessSettings: {},
    evaluation.OutlierSettings: {},
    evaluation.AttentionSettings: {},
    evaluation.NeedleSettings: {},
}
"""the settings of each command, and what they cannot do without"""

NUMBERS = [
    (section, name, hint)
    for section in NEEDED
    for name, hint in typing.get_type_hints(section).items()
    if {int, float} & kinds_of(hint)
]


@pytest.mark.parametrize(("section", "name", "hint"), NUMBERS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_has_no_meaning_is_refused_by_name(section: Any, name: str, hint: Any) -> None:
    for number in [-1, 10**30] if "int" in str(hint) else [-1.0, math.nan, math.inf, 1e300]:
        value: Any = number
        if typing.get_origin(hint) is list:
            value = [[number, number]] if "list[list" in str(hint) else [number]
        with pytest.raises(InputError) as error:
            section(**NEEDED[section] | {name: value})
        assert name in str(error.value).replace("-", "_")


def test_what_is_named_by_nothing_is_refused() -> None:
    for section, needed in NEEDED.items():
        for name in needed:
            if name in {"run", "output", "tokenizer"}:
                with pytest.raises(InputError, match=name):
                    section(**needed | {name: " "})
