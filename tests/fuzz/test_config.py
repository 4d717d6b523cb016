"""Every setting of a run with hostile values, from a file and from the command line.

Right is a config whose values have meaning, which reads back to itself and of which the checks and the plan on paper
say something, or one line.
"""

import dataclasses
import json
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.cli import parse_config, to_yaml
from common.strict_yaml import load_yaml
from common.typed import check_section, section_of
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.devices import device_by_name
from pretrain.plan.plan import make_plan
from pretrain.plan.time import Cluster
from pretrain.topology import plan_topology
from tests.fuzz.rules import answer, fuzz

Path_ = tuple[str | int, ...]

NEEDED: dict[str | int, dict[str, Any]] = {
    "train": {"path": "shards"},
    "ramp": {"steps": 3, "global_size": 16},
    "stages": {"from_tokens": 1000},
    "skip": {"first": 5, "last": 7},
}
MOST_LAYERS = 64
"""the plan of thousands takes a while"""
DEEPSPEED = ["zero_optimization", "communication_data_type", "steps_per_print", "flops_profiler", "bf16", "nonsense"]


def settings_of(section: type, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every setting; 0 stands for the first entry of a list."""
    for name, hint in typing.get_type_hints(section).items():
        here = (*path, name)
        yield here
        inner = section_of(hint)
        if inner is not None:
            of_list = "list[" in str(hint)
            yield from settings_of(inner, (*here, 0) if of_list else here)


KEYS = [*settings_of(RunConfig), *(("deepspeed", name) for name in DEEPSPEED)]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -1, 7, 64, 1000, 10**6, 10**9, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(10**30)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-45, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "x",
        "null",
        "true",
        "1e5",
        "nan",
        "a\nb",
        "a\0b",
        "\ud800",
        "é" * 2000,
        "../..",
        "{run}",
        "auto",
        "fp32",
    ),
    *([], {}, [[]], [{}], [None], [1, 2], {"a": 1}, {"": ""}, {"class_path": "os.system", "init_args": {}}),
    *({"enabled": True}, {"stage": 3}, {"reduce_bucket_size": "many"}, {"device": None}),
]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = st.one_of(st.sampled_from(VALUES), st.integers(), st.floats(), st.text(max_size=20), TREES)


def nested(path: Path_, value: Any) -> dict[str, Any]:
    """``value`` at ``path``; an entry of a list gets what it needs beside it."""
    for place in range(len(path) - 1, -1, -1):
        if path[place] == 0:
            needed = NEEDED.get(path[place - 1], {})
            value = [{**needed, **value}] if isinstance(value, dict) else [value]
        else:
            value = {path[place]: value}
    return typing.cast(dict[str, Any], value)


def check_answer(arguments: list[str]) -> None:
    """One line, or a config that means something all the way to the plan."""
    config, _ = answer(lambda: parse_config(RunConfig, arguments, "fuzz"))
    if config is None:
        return
    check_section(RunConfig, dataclasses.asdict(config), "the built config")
    assert load_yaml(to_yaml(config), "written") == json.loads(json.dumps(dataclasses.asdict(config)))
    assert config.train.steps >= 1
    world = config.parallel.tensor * config.parallel.pipeline
    answer(lambda: check_run(config, plan_topology(config.parallel, world)))
    if config.model.num_layers <= MOST_LAYERS:
        answer(lambda: make_plan(config, world, Cluster(device_by_name("H100"), "H100", 8, 0.5)))


@fuzz(quick=120, long=2200)
@given(path=st.sampled_from(KEYS), value=HOSTILE, other=st.sampled_from([*KEYS, None]), second=HOSTILE)
def test_a_file_with_hostile_values(path: Path_, value: Any, other: Path_ | None, second: Any) -> None:
    document = {"schedule": {"warmup_steps": 0}, **nested(path, value)}
    if other is not None and other[0] not in document:
        document |= nested(other, second)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_bytes(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
        check_answer(["--config", str(file)])


@fuzz(quick=60, long=600)
@given(path=st.sampled_from(KEYS), value=HOSTILE, raw=st.booleans(), plus=st.booleans())
def test_a_flag_with_a_hostile_value(path: Path_, value: Any, raw: bool, plus: bool) -> None:
    words = [part for part in path if part != 0]
    text = str(value) if raw else json.dumps(value)
    check_answer(["--schedule.warmup_steps=0", f"--{'.'.join(words)}{'+' if plus else ''}={text}"])


PIECES = [
    *("train", "steps", "null", "~", "on", "3", "0x1f", "1e5", "9" * 5000, "!!int", "!!bool", "!", "!!map"),
    *(":", " ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "&a", "*a", "<<", "|", ">", "'", '"', "#", "?"),
    *("---", "...", "%YAML 1.1", "\t", "\0", "\u2028"),
]


@fuzz(quick=300, long=2000)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_a_file_of_any_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    value, line = answer(lambda: load_yaml(text, "here"))
    assert line is not None or value is None or isinstance(value, str | int | float | bool | list | dict)
