"""`zero_bubble` gives the bits of `1f1b`, whatever splits the model besides, and whoever is late with a message."""

import contextlib
from dataclasses import replace

import pytest
import torch.distributed as dist

from pretrain.config import RunConfig
from pretrain.engines.engine import Engine
from pretrain.feed import BatchFeed
from scripts.scale.delays import Delays
from tests.parallel.training import SyntheticTokens, run_steps, start_engine, variant
from tests.world import run_world

STEPS = 4
LONGEST_DELAY = 0.003


def pipeline(
    micro_batches: int,
    replicas: int = 1,
    recompute: str = "none",
    precision: str = "fp32",
    model: dict[str, object] | None = None,
    documents: bool = False,
    **parallel: object,
) -> RunConfig:
    return variant(
        model={"tie_embeddings": True, **(model or {})},
        data={"document_attention": documents},
        parallel={"zero_stage": 1, **parallel},
        batch={"global_size": micro_batches * replicas, "micro_size": 1},
        train={"activation_checkpointing": recompute, "precision": precision},
    )


CASES = {
    "fewer micro-batches than stages, untied": pipeline(3, pipeline=4, model={"tie_embeddings": False}),
    "tied, its gradients sent at the end": pipeline(3, pipeline=4, overlap=False),
    "tensor, sequence, recomputed": pipeline(
        5, pipeline=2, tensor=2, sequence=True, recompute="full", documents=True, model={"num_kv_heads": 2}
    ),
    "tensor, ZeRO 0, factors of heads": pipeline(
        3, pipeline=2, tensor=2, zero_stage=0, model={"base": "head", "down": "head"}
    ),
    "replicas, bf16, recomputed product": pipeline(
        3, replicas=2, pipeline=2, precision="bf16", recompute="selective", gradient_exchange="bf16"
    ),
}


def train_both(cases: dict[str, RunConfig]) -> dict[str, dict[str, list[float]]]:
    """By case and schedule: losses and norms of steps and evaluations in between; `zero_bubble` under random delays."""
    from megatron.core import parallel_state

    found: dict[str, dict[str, list[float]]] = {}
    for name, config in cases.items():
        for schedule in ("1f1b", "zero_bubble"):
            engine, feed = start_engine(
                replace(config, parallel=replace(config.parallel, pipeline_schedule=schedule))  # type: ignore[arg-type]
            )
            late = Delays(seed=dist.get_rank(), longest=LONGEST_DELAY)
            with late if schedule == "zero_bubble" else contextlib.nullcontext():
                found.setdefault(name, {})[schedule] = trace(engine, feed, longer(config, engine))
            deferred = [hasattr(parameter, "deferred") for parameter in engine.parameters]
            assert all(deferred) if schedule == "zero_bubble" else not any(deferred)
            parallel_state.destroy_model_parallel()
    return found


def trace(engine: Engine, feed: BatchFeed, long: BatchFeed) -> list[float]:
    """Steps, an evaluation, steps on longer sequences, steps as before."""
    results = run_steps(engine, feed, 0, STEPS)
    evaluated = [engine.evaluate(feed.step(STEPS)).loss]
    results += run_steps(engine, long, STEPS, STEPS + 2)
    evaluated.append(engine.evaluate(feed.step(STEPS)).loss)
    results += run_steps(engine, feed, STEPS, STEPS + 2)
    engine.settle()
    return [value for result in results for value in (result.loss, result.grad_norm)] + evaluated


def longer(config: RunConfig, engine: Engine) -> BatchFeed:
    length = 2 * config.data.sequence_length
    long = replace(config, data=replace(config.data, sequence_length=length))
    return BatchFeed(SyntheticTokens(config.model.vocab_size, length), long, engine.topology)


@pytest.fixture(scope="module")
def traces() -> list[dict[str, dict[str, list[float]]]]:
    return run_world(4, train_both, CASES)


@pytest.mark.parametrize("name", CASES)
def test_both_schedules_give_the_same_bits(name: str, traces: list[dict[str, dict[str, list[float]]]]) -> None:
    for rank in traces:
        assert rank[name]["zero_bubble"] == rank[name]["1f1b"]
        *_, last, _, _, _ = rank[name]["1f1b"]  # its norm and two evaluations follow it
        assert last < rank[name]["1f1b"][0]
