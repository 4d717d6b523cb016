"""ZeRO 1 and 2 send gradients during the backward pass and weights during the next forward pass, and nobody notices.

Three replicas, which no size divides, with three micro-batches each; small buckets, so that many are on their way.
"""

import contextlib
from dataclasses import replace

import pytest
import torch.distributed as dist

from pretrain.config import RunConfig
from pretrain.engines.zero.optimizer import BucketedZero
from scripts.scale.delays import Delays
from tests.parallel.training import run_steps, start_engine, variant
from tests.world import run_world

STEPS = 7
LONGEST_DELAY = 0.002
WIDE = {"hidden_size": 70, "ffn_hidden_size": 1500, "vocab_size": 99, "num_layers": 5}
"""blocks of more than the smallest bucket, 1 MiB"""


def replicas(ranks: int, zero: int, precision: str = "fp32", **parallel: object) -> RunConfig:
    config = variant(
        model=WIDE,
        parallel={"zero_stage": zero, "bucket_megabytes": 1, **parallel},
        batch={"global_size": ranks * 3, "micro_size": 1},
        train={"precision": precision, "steps": STEPS},
    )
    return replace(config, optimizer=replace(config.optimizer, gradient_clipping=0.5))


def losses(cases: dict[str, tuple[RunConfig, bool]]) -> dict[str, list[tuple[float, float]]]:
    """By case: losses and norms; the flag says whether ranks are held up before their exchanges."""
    from megatron.core import parallel_state

    found = {}
    for name, (config, delayed) in cases.items():
        engine, feed = start_engine(config)
        assert isinstance(engine.deepspeed.optimizer, BucketedZero)
        delays = Delays(seed=dist.get_rank(), longest=LONGEST_DELAY)
        with delays if delayed else contextlib.nullcontext():
            results = run_steps(engine, feed, 0, config.train.steps)
        engine.settle()
        assert (engine.take_waits() > 0) == (config.parallel.overlap and engine.topology.data_size > 1)
        assert engine.take_waits() == 0
        assert not delayed or delays.count > STEPS * len(engine.optimizer.param_groups)
        assert len(engine.optimizer.param_groups) > 5
        found[name] = [(result.loss, result.grad_norm) for result in results]
        parallel_state.destroy_model_parallel()
    return found


@pytest.mark.parametrize("zero", [1, 2])
def test_hidden_or_not_and_whoever_is_late_the_losses_are_the_same_bit_for_bit(zero: int) -> None:
    cases = {
        "hidden": (replicas(3, zero), False),
        "hidden, delayed": (replicas(3, zero), True),
        "exposed": (replicas(3, zero, overlap=False), False),
        "bf16, hidden, delayed": (replicas(3, zero, "bf16", gradient_exchange="bf16"), True),
        "bf16, exposed": (replicas(3, zero, "bf16", gradient_exchange="bf16", overlap=False), False),
    }
    first, *others = run_world(3, losses, cases)
    assert all(other == first for other in others), "ranks disagree"
    assert first["hidden"] == first["hidden, delayed"] == first["exposed"]
    assert first["bf16, hidden, delayed"] == first["bf16, exposed"]
    assert first["hidden"][-1][0] < first["hidden"][0][0]


def test_state_shared_by_some_replicas_only_trains_like_one_process() -> None:
    cases = {f"zero{zero}": (replicas(4, zero, partition_ranks=2), zero == 2) for zero in (1, 2)}
    split = run_world(4, losses, cases)[0]
    alone = run_world(1, losses, {"one": (replicas(4, 1), False)})[0]["one"]
    for name, trace in split.items():
        for (loss, norm), (expected_loss, expected_norm) in zip(trace, alone, strict=True):
            assert loss == pytest.approx(expected_loss, abs=1e-5), name
            assert norm == pytest.approx(expected_norm, rel=1e-4), name


def test_gradients_that_travel_in_bf16_stay_within_its_rounding() -> None:
    cases = {kind: (replicas(2, 1, gradient_exchange=kind), False) for kind in ("fp32", "bf16")}
    found = run_world(2, losses, cases)[0]
    differences = [abs(a[1] - b[1]) / b[1] for a, b in zip(found["bf16"], found["fp32"], strict=True)]
    assert 0 < differences[0] < 2**-8
    assert found["bf16"][-1][0] == pytest.approx(found["fp32"][-1][0], rel=0.02)


def test_gradients_that_are_bf16_when_they_are_made_lose_nothing_on_their_way() -> None:
    """Each micro-batch's under ZeRO 2, and those of a single one under ZeRO 1; the sums over ranks are fp32."""
    cases = {}
    for kind in ("fp32", "bf16"):
        cases[f"zero2 {kind}"] = replicas(2, 2, "bf16", gradient_exchange=kind), False
        single = replicas(2, 1, "bf16", gradient_exchange=kind)
        cases[f"zero1 {kind}"] = replace(single, batch=replace(single.batch, global_size=2)), False
    found = run_world(2, losses, cases)[0]
    assert found["zero2 fp32"] == found["zero2 bf16"]
    assert found["zero1 fp32"] == found["zero1 bf16"]
