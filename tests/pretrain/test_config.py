"""The settings of a run: every number has a range, and what lies outside is refused by its name."""

import math
import typing
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from common.cli import config_from_values
from common.errors import InputError
from common.typed import alternatives_of
from data.config import CacheConfig, RampConfig, SkipConfig, StageConfig
from pretrain.config import RunConfig

SECTIONS = [RunConfig, *(entry.default_factory for entry in fields(RunConfig) if is_dataclass(entry.default_factory))]
NESTED = [CacheConfig]
NUMBERS = [
    (section, entry.name, float if float in alternatives_of(hint) else int)
    for section in [*SECTIONS, *NESTED]
    for entry in fields(section)
    for hint in [typing.get_type_hints(section)[entry.name]]
    if {int, float} & set(alternatives_of(hint))
]


@pytest.mark.parametrize(("section", "name", "kind"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_no_number_is_without_bounds(section: Any, name: str, kind: type) -> None:
    outside = [-1, 10**30] if kind is int else [-1.0, -1e-300, math.nan, math.inf, 1e300]
    for value in outside:
        with pytest.raises(InputError) as error:
            section(**{name: value})
        assert name in str(error.value)
        assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"steps": 0}}, "train.steps: must be at least 1, is 0"),
        ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2: must be below 1, is 1.0"),
        ({"optimizer": {"eps": 0.0}}, "optimizer.eps: must be at least 1e-30, is 0.0"),
        ({"evaluation": {"batches": -1}}, "evaluation.batches: must be at least 0, is -1"),
        ({"checkpoint": {"keep": -1}}, "checkpoint.keep: must be at least 0, is -1"),
        ({"checkpoint": {"remote": ""}}, "checkpoint.remote: is empty; name something, or leave it out"),
        ({"schedule": {"final_ratio": 1.5}}, "schedule.final_ratio: must be at most 1, is 1.5"),
        ({"model": {"rope_theta": 0.0}}, "model.rope_theta: must be above 0, is 0.0"),
        ({"seed": -1}, "seed: must be at least 0, is -1"),
        ({"seed": 2**63}, "'seed' is a number of 19 digits; no setting is so large"),
        ({"name": ""}, "name: is empty; name something, or leave it out"),
        ({"name": " \t"}, "name: is empty; name something, or leave it out"),
        ({"name": "a" * 300}, "name: a name of 300 bytes; file systems take at most 255"),
        ({"name": "é" * 128}, "name: a name of 256 bytes; file systems take at most 255"),
        ({"name": "a\nb"}, "name: has the character '\\n'; use letters, digits, blanks and -._"),
        ({"name": "a\x1b[2Jb"}, "name: has the character '\\x1b'"),
        ({"name": "a\u202eb"}, "name: has the character '\\u202e'"),
        ({"name": "a\0b"}, "'name' contains a NUL character"),
        ({"run_dir": "runs/a\nb"}, "run_dir: has the character '\\n'; name a place without control characters"),
        ({"run_dir": "runs/" + "a" * 300}, "run_dir: a name of 300 bytes"),
        ({"checkpoint": {"staging": "/local\r"}}, "checkpoint.staging: has the character '\\r'"),
        ({"checkpoint": {"remote": "s3://a/\u2028"}}, "checkpoint.remote: has the character '\\u2028'"),
        ({"metrics": {"wandb_project": "a\nb"}}, "metrics.wandb_project: has the character '\\n'"),
    ],
)
def test_a_value_without_meaning_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        config_from_values(RunConfig, values, "here")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["a", "Größe 3, zweiter Versuch", "日本語", "a.b_c-d+e=1", "..a", "a" * 255])
def test_a_name_may_have_any_character_that_can_be_seen(name: str) -> None:
    assert RunConfig(name=name, run_dir=f"/data/{name}").name == name


def test_entries_of_lists_have_bounds_too() -> None:
    for build, message in [
        (lambda: RampConfig(steps=0, global_size=1), "batch.ramp: steps: must be at least 1, is 0"),
        (lambda: SkipConfig(first=0, last=10**20), "data.skip: last: must be at most"),
        (lambda: SkipConfig(first=3, last=2), "data.skip: first must be 0 to last"),
    ]:
        with pytest.raises(InputError, match=message):
            build()
    with pytest.raises(InputError, match=r"data.stages\[0\].from_tokens: must be larger than 0, is 0"):
        config_from_values(RunConfig, {"data": {"stages": [{"from_tokens": 0}]}}, "here")
    stages = [{"from_tokens": 9, "train": [{"path": ""}]}]
    with pytest.raises(InputError, match=r"^here: data.train: path: is empty; name something, or leave it out$"):
        config_from_values(RunConfig, {"data": {"stages": stages}}, "here")
    assert StageConfig(from_tokens=5).sequence_length is None
