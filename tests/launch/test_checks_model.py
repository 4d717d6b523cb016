"""Preflight builds the model that is planned, names the most loaded rank, and refuses what no device can hold."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse_config
from common.errors import InputError
from launch.checks.finding import Level
from launch.checks.model import check_model
from pretrain.config import RunConfig
from pretrain.plan import meta
from pretrain.plan.meta import BuiltParameter, BuiltStage


def config_13b() -> RunConfig:
    return parse_config(RunConfig, ["--config", str(Path("configs/shared_diff_13b.yaml"))], "test")


def test_thirteen_billion_parameters_on_512_processes_in_seconds() -> None:
    started = time.process_time()
    model, memory, note = check_model(config_13b(), 512)
    assert time.process_time() - started < 20
    assert (model.level, memory.level, note.level) == (Level.OK, Level.OK, Level.WARNING)
    assert model.text.startswith("12.757 B parameters; 8 different shards built, which make them up; the largest has")
    assert "rank 128 (stage 1) is the most loaded" in memory.text
    assert "2 micro-batches cannot fill 4 stages" in note.text


def test_more_memory_than_the_device_has_is_an_error() -> None:
    config = config_13b()
    large = replace(config, batch=replace(config.batch, micro_size=16, global_size=4096))
    findings = check_model(large, 512)
    assert [finding.level for finding in findings if finding.what == "memory"] == [Level.ERROR]
    assert [finding.level for finding in check_model(large, 512, "B200") if finding.what == "memory"] == [Level.OK]


def test_an_unknown_device_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="--device H10: not in the table; did you mean 'H100'"):
        check_model(config_13b(), 512, "H10")


def test_shards_that_do_not_fit_are_an_error_that_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    build = meta._build

    def build_wrongly(*arguments) -> BuiltStage:
        built = build(*arguments)
        wrong = {name: BuiltParameter(one.info, (7, *one.shape[1:])) for name, one in built.parameters.items()}
        return replace(built, parameters=wrong)

    monkeypatch.setattr(meta, "_build", build_wrongly)
    config = parse_config(RunConfig, ["--config", "configs/debug_cpu.yaml"], "test")
    model, *_ = check_model(config, 1)
    assert model.level is Level.ERROR
    assert "blocks.0.attention.head_norm.weight on stage 0: shards [(7,)] do not make up (64,)" in model.text
    assert "more" in model.text
