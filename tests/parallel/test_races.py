"""Random delays before every collective change no bit of a run: nothing reads what has not arrived.

`scripts/bench_scale.py --only races` takes 200 steps; here are few.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from pretrain.config import RunConfig
from scripts.scale.delays import Delays
from tests.parallel.training import run_steps, start_engine, variant
from tests.world import run_world

STEPS = 3
LONGEST = 0.007
HALF = {"micro_size": 4}
"""of the global batch: one micro-batch for each of two replicas"""
SPLITS: dict[str, tuple[int, dict[str, dict[str, object]]]] = {
    "two replicas": (
        2,
        {
            "zero 0": {"parallel": {"zero_stage": 0}},
            "zero 1, accumulation": {"parallel": {"zero_stage": 1}, "batch": {"micro_size": 1}},
            "zero 1, bf16": {"parallel": {"zero_stage": 1}, "train": {"precision": "bf16"}},
            "zero 2, accumulation": {"parallel": {"zero_stage": 2}, "batch": {"micro_size": 2}},
            "zero 3": {"parallel": {"zero_stage": 3}},
            "context": {"parallel": {"zero_stage": 1, "context": 2}, "batch": {"micro_size": 4}},
        },
    ),
    "two stages of two replicas": (
        4,
        {"zero 1, accumulation": {"parallel": {"zero_stage": 1, "pipeline": 2}, "batch": {"micro_size": 2}}},
    ),
}


def losses_and_norms(config: RunConfig, delayed: bool) -> tuple[list[tuple[float, float]], int]:
    """Of a run's steps on this rank; and how many exchanges were delayed."""
    from megatron.core import parallel_state

    engine, feed = start_engine(config)
    delays = Delays(seed=dist.get_rank(), longest=LONGEST)
    with delays if delayed else nullcontext():
        results = run_steps(engine, feed, 0, STEPS)
    engine.settle()
    parallel_state.destroy_model_parallel()
    return [(result.loss, result.grad_norm) for result in results], delays.count


def with_and_without(configs: dict[str, RunConfig]) -> dict[str, tuple[object, object, int]]:
    result = {}
    for name, config in configs.items():
        punctual, _ = losses_and_norms(config, delayed=False)
        late, calls = losses_and_norms(config, delayed=True)
        result[name] = punctual, late, calls
    return result


@pytest.mark.parametrize("world", SPLITS)
def test_delays_change_no_bit(world: str) -> None:
    processes, cases = SPLITS[world]
    for seen in run_world(
        processes, with_and_without, {name: variant(**{"batch": HALF, **case}) for name, case in cases.items()}
    ):
        for name, (punctual, late, calls) in seen.items():
            assert punctual == late, name
            assert calls >= STEPS, name


def read_early(wait: bool) -> float:
    """A program with a race unless it waits: rank 0 reads a sum to which a delayed rank 1 has not yet added."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    value = torch.ones(3)
    with Delays(seed=1, shortest=0.3, longest=0.4) if dist.get_rank() == 1 else nullcontext():
        work = dist.all_reduce(value, async_op=True)
    if wait:
        work.wait()
    seen = float(value[0])
    work.wait()
    return seen


def read_both_ways() -> tuple[float, float]:
    return read_early(wait=True), read_early(wait=False)


def test_a_missing_wait_is_seen() -> None:
    punctual, hasty = run_world(2, read_both_ways)[0]
    assert (punctual, hasty) == (2.0, 1.0)
