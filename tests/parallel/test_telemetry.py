"""Every topology records the numbers of one process, once, and on no other step anything.

Weights, batches and so gradients are those of tests/parallel/training.py. A world of processes runs several cases, each
for four steps, of which the second and the fourth are looked into.
"""

import functools
from dataclasses import dataclass, replace

import pytest
import torch

from model.recorder import Recorder
from pretrain.config import MetricsConfig, RunConfig
from pretrain.plan.ledger import Ledger
from pretrain.telemetry import telemetry as telemetry_room
from pretrain.telemetry.telemetry import Telemetry
from tests.model.helpers import READINGS
from tests.parallel.training import start_engine, variant
from tests.world import run_world

STEPS = 4
TOLERANCE = 1e-5
Numbers = dict[str, float | list[float]]


def case(
    attention: str = "shared_diff",
    reading: tuple[str, str] = ("layer", "layer"),
    micro: int = 8,
    recompute: str = "none",
    documents: bool = False,
    precision: str = "fp32",
    optimizer: str = "adamw",
    **parallel: object,
) -> RunConfig:
    config = variant(
        model={"attention": attention, "base": reading[0], "down": reading[1], "tie_embeddings": attention != "diff"},
        data={"document_attention": documents},
        parallel={"zero_stage": 0, **parallel},
        batch={"micro_size": micro},
        optimizer={"kind": optimizer},
        train={"activation_checkpointing": recompute, "precision": precision, "steps": STEPS},
    )
    settings = ("stage3_param_persistence_threshold", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size")
    nothing_kept = {"zero_optimization": dict.fromkeys(settings, 0)}  # weights are whole in their own layer only
    deepspeed = nothing_kept if config.parallel.zero_stage == 3 else {}
    return replace(config, metrics=MetricsConfig(telemetry_every=2), deepspeed=deepspeed)


WORLDS: dict[int, dict[str, RunConfig]] = {
    2: {
        "zero0-dp2-selective": case(micro=2, recompute="selective"),
        "zero1-dp2-accumulation": case(micro=1, zero_stage=1),
        "zero2-dp2-diff": case("diff", micro=4, zero_stage=2),
        "zero3-dp2-full-recompute": case(micro=2, zero_stage=3, recompute="full"),
        "zero3-dp2-diff_v2": case("diff_v2", micro=4, zero_stage=3),
        "tp2-standard": case("standard", tensor=2),
        "tp2-diff_v2-accumulation": case("diff_v2", tensor=2, micro=2),
        "tp2-sp-diff-full-recompute": case("diff", tensor=2, sequence=True, recompute="full"),
        **{f"tp2-sp-{'-'.join(reading)}": case(reading=reading, tensor=2, sequence=True) for reading in READINGS},
        "pp2-full-recompute": case(micro=2, pipeline=2, zero_stage=1, recompute="full"),
        "pp2-untied": case("diff", micro=2, pipeline=2),
        "tp2-muon": case(tensor=2, zero_stage=1, optimizer="muon"),
        "bf16-zero2-dp2": case(micro=2, zero_stage=2, precision="bf16"),
        "context2-diff_v2-documents": case("diff_v2", micro=4, context=2, documents=True, zero_stage=1),
        "context2-heads-standard": case("standard", context=2, context_exchange="heads"),
        "bf16-pp2": case(micro=2, pipeline=2, zero_stage=1, precision="bf16"),
    },
    4: {
        "tp2-pp2-sp-documents": case(tensor=2, pipeline=2, sequence=True, micro=2, documents=True, zero_stage=1),
        "zero3-tp2-dp2": case(tensor=2, zero_stage=3, micro=1),
        "context2-tp2-sp-full": case(tensor=2, sequence=True, context=2, recompute="full", zero_stage=2),
    },
}


@dataclass(frozen=True)
class Looked:
    """What one rank saw of one case."""

    numbers: list[Numbers]
    """of the steps that were looked into; empty but on rank 0"""
    losses: list[float]
    exchanges: list[int]
    """of every step"""
    recorded: list[int]
    """names that this rank recorded in every step"""


def look(configs: dict[str, RunConfig]) -> dict[str, Looked]:
    """Every case in turn."""
    from megatron.core import parallel_state

    telemetry_room.DIGITS = 12
    found = {}
    for name, config in configs.items():
        recorder = Recorder()
        engine, feed = start_engine(config, recorder)
        telemetry = Telemetry(config, engine, recorder)
        looked = Looked([], [], [], [])
        for step, micro_batches in enumerate(feed.steps(0, STEPS)):
            due, taken = telemetry.due(step + 1), 0
            if due:
                telemetry.begin()
            with Ledger() as ledger:
                result = engine.train_step(micro_batches, 1e-3)
                taken = len(recorder._page.entries)
                if due:
                    looked.numbers.append(telemetry.end(result).get("telemetry", {}))
            looked.losses.append(result.loss)
            looked.exchanges.append(len(ledger.entries))
            looked.recorded.append(taken)
        found[name] = looked
        parallel_state.destroy_model_parallel()
    return found


@functools.cache
def one_process(attention: str, reading: tuple[str, str], documents: bool, precision: str, optimizer: str) -> Looked:
    zero = 0 if precision == "fp32" else 1
    config = case(attention, reading, documents=documents, precision=precision, optimizer=optimizer, zero_stage=zero)
    return run_world(1, look, {"alone": config})[0]["alone"]


def yardstick(config: RunConfig) -> Looked:
    """What one process sees of the same model and data."""
    reading = (config.model.base, config.model.down)
    settings = (config.data.document_attention, config.train.precision, config.optimizer.kind)
    return one_process(config.model.attention, reading, *settings)


@functools.cache
def world(size: int) -> list[dict[str, Looked]]:
    return run_world(size, look, WORLDS[size])


EVERY_CASE = [(size, name) for size, configs in WORLDS.items() for name in configs]


@pytest.mark.parametrize(("size", "name"), EVERY_CASE)
def test_numbers_are_those_of_one_process(size: int, name: str) -> None:
    expected, ranks = yardstick(WORLDS[size][name]), [rank[name] for rank in world(size)]
    assert [numbers for rank in ranks[1:] for numbers in rank.numbers] == [{}] * 2 * (size - 1)
    for found, whole in zip(ranks[0].numbers, expected.numbers, strict=True):
        assert list(found) == list(whole)
        rough = WORLDS[size][name].train.precision == "bf16"
        for number, value in whole.items():
            close = (
                pytest.approx(value, rel=0.1, abs=0.1) if rough else pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
            )
            assert found[number] == close, number


@pytest.mark.parametrize(("size", "name"), EVERY_CASE)
def test_a_step_that_is_not_looked_into_records_and_exchanges_nothing_for_it(size: int, name: str) -> None:
    config = WORLDS[size][name]
    tensors = 3 if config.model.attention == "diff_v2" else 2  # queries, keys, and weights of maps of whole samples
    micro_batches = config.batch.global_size // config.batch.micro_size  # of the one replica where samples are split
    gathered = config.model.num_layers * tensors * micro_batches if config.parallel.context > 1 else 0
    for rank in (ranks[name] for ranks in world(size)):
        assert rank.recorded[0] == rank.recorded[2] == 0 < rank.recorded[1] == rank.recorded[3]
        assert rank.exchanges[3] == rank.exchanges[2] + gathered + 2  # one of sums, one of largest values
        assert torch.isfinite(torch.tensor(rank.losses)).all()
