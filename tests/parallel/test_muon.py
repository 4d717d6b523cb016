"""Muon over every cut: losses of one process, and a run that goes on anywhere.

Matrices are cut by tensor parallelism, by ZeRO's flat partitions (3 blocks on 2 or 4 ranks: somewhere inside a row) and
by both; each must be orthogonalised whole.
"""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import load
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.state import local_fragments
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings
from pretrain.config import RunConfig
from pretrain.engines.connection import disconnect
from pretrain.optimizers.config import OptimizerConfig
from pretrain.plan.update import held_parts
from pretrain.topology import plan_topology
from tests.parallel.training import run_steps, start_engine, variant
from tests.world import run_world

SAVED_AT, STOP = 4, 12
EXACT = {"abs": 1e-5, "rel": 1e-5}
ROUNDING = {"abs": 0.02, "rel": 0.05}
"""of bf16, which keeps 8 bits"""
RATE = 3e-3
MUON = OptimizerConfig(kind="muon", learning_rate=RATE, momentum=0.9, gradient_clipping=0.5)


def muon(model: dict[str, object], precision: str = "fp32", micro: int = 2, **parallel: object) -> RunConfig:
    config = variant(
        model={"num_layers": 3, **model},
        parallel={"zero_stage": 1, **parallel},
        batch={"micro_size": micro},
        train={"precision": precision},
    )
    return replace(config, optimizer=MUON)


HEAD = {"base": "head", "down": "head", "rank": 5, "hidden_size": 36}
DIFF_V2 = {"attention": "diff_v2", "tie_embeddings": False}
BF16 = {"attention": "diff"}
SINGLE = {
    "layer": muon({}, zero_stage=0, micro=8),
    "head": muon(HEAD, zero_stage=0, micro=8),
    "diff_v2": muon(DIFF_V2, zero_stage=0, micro=8),
    "bf16": muon(BF16, "bf16", micro=8),
}
WORLDS: dict[int, dict[str, RunConfig]] = {
    2: {
        "layer zero0-dp2": muon({}, zero_stage=0),
        "head zero1-dp2": muon(HEAD),
        "head zero2-dp2": muon(HEAD, zero_stage=2),
        "diff_v2 pp2": muon(DIFF_V2, pipeline=2),
        "bf16 zero1-dp2": muon(BF16, "bf16"),
        "bf16 zero2-dp2": muon(BF16, "bf16", zero_stage=2),
    },
    4: {
        "layer zero1-dp4": muon({}),
        "head tp2-dp2": muon(HEAD, tensor=2),
        "diff_v2 tp2-sp-dp2": muon(DIFF_V2, tensor=2, sequence=True),
    },
    8: {"layer tp2-pp2-dp2": muon({}, tensor=2, pipeline=2, micro=1)},
}


def train_and_save(configs: dict[str, RunConfig], folder: Path) -> dict[str, list[float]]:
    """By case: losses and norms of all steps; a checkpoint after SAVED_AT of them."""
    from megatron.core import parallel_state

    traces = {}
    for name, config in configs.items():
        engine, feed = start_engine(config)
        results = run_steps(engine, feed, 0, SAVED_AT, RATE)
        writer = CheckpointWriter(folder / name, engine.topology, WriterSettings(Retention(0, 0, 0)))
        facts = CheckpointFacts(SAVED_AT, asdict(config), {}, engine.topology.describe())
        writer.save(list(local_fragments(engine)), facts)
        results += run_steps(engine, feed, SAVED_AT, STOP, RATE)
        assert writer.wait() is None
        traces[name] = [result.loss for result in results] + [result.grad_norm for result in results]
        if engine.topology.world_size == 1:
            disconnect()
        else:
            parallel_state.destroy_model_parallel()
    return traces


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("muon")


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, list[float]]:
    return run_world(1, train_and_save, SINGLE, folder)[0]


@pytest.mark.parametrize("size", WORLDS)
def test_losses_and_norms_are_those_of_one_process(size: int, single: dict[str, list[float]], folder: Path) -> None:
    for traces in run_world(size, train_and_save, WORLDS[size], folder):
        for name, found in traces.items():
            model = name.split()[0]
            allowed = ROUNDING if model == "bf16" else EXACT
            assert found == pytest.approx(single[model], **allowed), name


@pytest.mark.parametrize("size", WORLDS)
def test_the_cases_cut_matrices(size: int) -> None:
    for name, config in WORLDS[size].items():
        held = [list(held_parts(config, plan_topology(config.parallel, size, rank=rank))) for rank in range(size)]
        cut = {part.info.name for parts in held for part in parts if part.holders > 1 and part.info.matrix}
        assert bool(cut) == ("zero0" not in name and "dp" in name), name


GOES_ON = {
    4: {"layer zero1-dp4": ["layer zero1-dp4", "layer tp2-pp2-dp2", "layer zero0-dp2"], "head tp2-dp2": ["head"]},
    2: {
        "head zero1-dp2": ["head tp2-dp2"],
        "diff_v2 pp2": ["diff_v2 tp2-sp-dp2"],
        "bf16 zero2-dp2": ["bf16 zero1-dp2"],
    },
}
"""processes -> case -> the cases whose checkpoints it goes on from"""


def go_on(cases: dict[str, list[str]], folder: Path) -> dict[tuple[str, str], list[float]]:
    """By case and origin: losses and norms of the steps after SAVED_AT."""
    from megatron.core import parallel_state

    every = {name: config for configs in WORLDS.values() for name, config in configs.items()}
    after = {}
    for name, origins in cases.items():
        engine, feed = start_engine(every[name])
        run_steps(engine, feed, 0, 1, RATE)  # state that every load must replace
        for origin in origins:
            reader = CheckpointReader(step_folder(folder / origin, SAVED_AT))
            load(engine, reader, reader.step)
            results = run_steps(engine, feed, SAVED_AT, STOP, RATE)
            after[name, origin] = [result.loss for result in results] + [result.grad_norm for result in results]
        parallel_state.destroy_model_parallel()
    return after


@pytest.mark.parametrize("size", GOES_ON)
def test_a_run_goes_on_anywhere(size: int, single: dict[str, list[float]], folder: Path) -> None:
    for found in run_world(size, go_on, GOES_ON[size], folder):
        for (name, origin), values in found.items():
            model = name.split()[0]
            whole = single[model]
            expected = whole[SAVED_AT:STOP] + whole[STOP + SAVED_AT :]
            assert values == pytest.approx(expected, **(ROUNDING if name.startswith("bf16") else EXACT)), (
                f"{name} from {origin}"
            )


def test_a_checkpoint_keeps_the_momentum_of_matrices_and_the_moments_of_the_others(
    single: dict[str, list[float]], folder: Path
) -> None:
    reader = CheckpointReader(step_folder(folder / "head", SAVED_AT))
    kept = {name: tuple(reader.moments(name)) for name in reader.names()}
    assert set(kept.values()) == {("momentum",), ("exp_avg", "exp_avg_sq")}
    assert kept["blocks.2.attention.query_up"] == kept["blocks.0.ffn.down.weight"] == ("momentum",)
    assert kept["embedding.weight"] == kept["blocks.1.attention.lambda_q1"] == ("exp_avg", "exp_avg_sq")
    assert reader.read("blocks.2.attention.query_up", "momentum").any()
