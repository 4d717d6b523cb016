"""Every topology trains like one process: losses and gradient norms of 20 steps within 1e-5 in fp32."""

import functools
from dataclasses import replace

import pytest
import torch

from data.config import RampConfig
from pretrain.config import RunConfig
from pretrain.feed import BatchFeed
from tests.parallel.training import SyntheticTokens, Trace, run_steps, start_engine, train, variant
from tests.world import run_world

TOLERANCE = 1e-5


@functools.cache
def single_process(
    attention: str, reading: tuple[str, str], tied: bool, document_attention: bool = False, groups: int | None = None
) -> Trace:
    """The yardstick: plain layers, no ZeRO, no accumulation."""
    config = variant(
        model={
            "attention": attention,
            "base": reading[0],
            "down": reading[1],
            "tie_embeddings": tied,
            "num_kv_heads": groups,
        },
        data={"document_attention": document_attention},
    )
    return run_world(1, train, config)[0]


def split(
    attention: str = "shared_diff",
    reading: tuple[str, str] = ("layer", "layer"),
    tied: bool = True,
    tensor: int = 1,
    pipeline: int = 1,
    sequence: bool = False,
    zero: int = 1,
    micro: int = 4,
    document_attention: bool = False,
    recompute: str = "none",
    groups: int | None = None,
) -> RunConfig:
    return variant(
        model={
            "attention": attention,
            "base": reading[0],
            "down": reading[1],
            "tie_embeddings": tied,
            "num_kv_heads": groups,
        },
        data={"document_attention": document_attention},
        parallel={"tensor": tensor, "pipeline": pipeline, "sequence": sequence, "zero_stage": zero},
        batch={"micro_size": micro},
        train={"activation_checkpointing": recompute},
    )


# (processes, split): each mechanism stands in at least one case that fails when it is broken.
CASES = {
    "zero0-dp2": (2, {"zero": 0}),
    "zero1-dp2-accumulation4": (2, {"micro": 1}),
    "zero2-dp2": (2, {"zero": 2, "micro": 2}),
    "zero3-dp2": (2, {"zero": 3, "micro": 2}),
    "zero3-tp2-dp2": (4, {"zero": 3, "tensor": 2}),
    "zero3-tp2-sp-head-head": (2, {"zero": 3, "tensor": 2, "sequence": True, "reading": ("head", "head")}),
    "zero2-tp2-accumulation4": (2, {"zero": 2, "tensor": 2, "micro": 2}),
    "zero0-tp2-untied": (2, {"zero": 0, "tensor": 2, "tied": False}),
    "tp4-standard": (4, {"tensor": 4, "attention": "standard"}),
    "tp2-sp-diff": (2, {"tensor": 2, "sequence": True, "attention": "diff"}),
    "tp2-pp2-sp-grouped": (4, {"tensor": 2, "pipeline": 2, "sequence": True, "groups": 2, "recompute": "selective"}),
    "zero3-dp2-grouped-head-head": (2, {"zero": 3, "groups": 2, "reading": ("head", "head")}),
    "zero0-tp2-grouped-diff": (2, {"zero": 0, "tensor": 2, "groups": 2, "attention": "diff"}),
    "pp4-grouped-diff_v2": (4, {"pipeline": 4, "groups": 1, "attention": "diff_v2", "micro": 2}),
    "tp2-zero2-dp2-grouped-standard": (4, {"tensor": 2, "zero": 2, "attention": "standard", "groups": 4}),
    "tp2-sp-diff_v2": (2, {"tensor": 2, "sequence": True, "attention": "diff_v2", "micro": 8}),
    "tp2-sp-head-head": (2, {"tensor": 2, "sequence": True, "reading": ("head", "head")}),
    "tp4-sp-layer-layer": (4, {"tensor": 4, "sequence": True, "micro": 8}),
    "tp2-layer-head": (2, {"tensor": 2, "reading": ("layer", "head")}),
    "tp2-sp-head-layer": (2, {"tensor": 2, "sequence": True, "reading": ("head", "layer")}),
    "pp2-tied": (2, {"pipeline": 2, "micro": 2}),
    "pp4-untied": (4, {"pipeline": 4, "tied": False, "micro": 1}),
    "zero0-pp2-dp2": (4, {"pipeline": 2, "zero": 0, "micro": 2}),
    "tp2-pp2-sp-documents": (4, {"tensor": 2, "pipeline": 2, "sequence": True, "document_attention": True}),
    "tp2-pp2-dp2": (8, {"tensor": 2, "pipeline": 2, "micro": 1}),
    "tp2-pp2-full-recompute": (4, {"tensor": 2, "pipeline": 2, "recompute": "full"}),
    "zero1-selective-recompute": (2, {"recompute": "selective"}),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_and_norms_equal_the_single_process(name: str) -> None:
    processes, settings = CASES[name]
    config = split(**settings)  # type: ignore[arg-type]
    expected = single_process(
        config.model.attention,
        (config.model.base, config.model.down),
        config.model.tie_embeddings,
        config.data.document_attention,
        config.model.num_kv_heads,
    )
    traces = run_world(processes, train, config)
    for trace in traces:
        torch.testing.assert_close(trace.losses, expected.losses, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(trace.grad_norms, expected.grad_norms, rtol=TOLERANCE, atol=TOLERANCE)
    by_name: dict[str, torch.Tensor] = {}
    for trace in traces:
        for parameter, value in trace.replicated.items():
            assert torch.equal(by_name.setdefault(parameter, value), value), f"{parameter} differs between ranks"


def shortened(config: RunConfig, steps: int) -> RunConfig:
    return replace(config, train=replace(config.train, steps=steps))


@pytest.mark.parametrize("name", ["zero1-dp2-accumulation4", "tp2-sp-head-layer", "tp2-pp2-full-recompute"])
def test_recomputation_changes_no_bit(name: str) -> None:
    processes, settings = CASES[name]
    traces = [
        run_world(processes, train, shortened(split(**{**settings, "recompute": mode}), 5))[0]  # type: ignore[arg-type]
        for mode in ("none", "selective", "full")
    ]
    assert traces[0].losses == traces[1].losses == traces[2].losses
    assert traces[0].grad_norms == traces[1].grad_norms == traces[2].grad_norms


@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, {"tensor": 2, "sequence": True}), (8, {"tensor": 2, "pipeline": 2, "micro": 2})],
    ids=["tp2-sp-accumulation2", "tp2-pp2-dp2"],
)
def test_replicas_stay_bitwise_equal_for_50_steps_with_clipping(processes: int, settings: dict[str, object]) -> None:
    config = split(**settings)  # type: ignore[arg-type]
    config = replace(
        config,
        train=replace(config.train, steps=50),
        optimizer=replace(config.optimizer, gradient_clipping=0.1),
    )
    values: dict[str, torch.Tensor] = {}
    for trace in run_world(processes, train, config):
        assert min(trace.grad_norms) > 0.1  # every step is clipped
        for name, value in trace.replicated.items():
            assert torch.equal(values.setdefault(name, value), value), f"{name} differs between ranks"
    assert any(name.endswith("query_down") for name in values)


BF16_CASES = {
    "tp2-sp-accumulation4": (2, {"tensor": 2, "sequence": True, "micro": 2}),
    "tp2-pp2": (4, {"tensor": 2, "pipeline": 2}),
    "zero2-dp2": (2, {"zero": 2, "micro": 2}),
    "zero3-tp2-dp2": (4, {"zero": 3, "tensor": 2}),
    "zero3-tp2-sp-head-head": (2, {"zero": 3, "tensor": 2, "sequence": True, "reading": ("head", "head")}),
}


@functools.cache
def single_process_bf16(**reading: object) -> Trace:
    return run_world(1, train, bf16(split(zero=1, micro=8, **reading)))[0]  # type: ignore[arg-type]


def bf16(config: RunConfig) -> RunConfig:
    return replace(config, train=replace(config.train, precision="bf16", steps=10))


@pytest.mark.parametrize("name", BF16_CASES)
def test_bf16_stays_within_its_rounding_of_the_single_process(name: str) -> None:
    """bf16 keeps 8 bits: 2^-8 of a loss near 4.5 is 0.02; gradients are accumulated in fp32."""
    processes, settings = BF16_CASES[name]
    trace = run_world(processes, train, bf16(split(**settings)))[0]  # type: ignore[arg-type]
    expected = single_process_bf16(**{key: value for key, value in settings.items() if key == "reading"})
    torch.testing.assert_close(trace.losses, expected.losses, rtol=0, atol=0.02)
    torch.testing.assert_close(trace.grad_norms, expected.grad_norms, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, {"tensor": 2, "micro": 2}), (2, {"zero": 2, "micro": 2}), (4, {"pipeline": 2, "micro": 2})],
    ids=["tp2", "zero2-dp2", "pp2-dp2"],
)
def test_a_batch_size_ramp_is_the_same_on_every_topology(processes: int, settings: dict[str, object]) -> None:
    ramp = [RampConfig(steps=3, global_size=4), RampConfig(steps=3, global_size=12)]

    def ramped(config: RunConfig) -> RunConfig:
        return replace(config, batch=replace(config.batch, ramp=ramp), train=replace(config.train, steps=10))

    expected = run_world(1, train, ramped(split(zero=0, micro=4)))[0]
    trace = run_world(processes, train, ramped(split(**settings)))[0]  # type: ignore[arg-type]
    torch.testing.assert_close(trace.losses, expected.losses, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(trace.grad_norms, expected.grad_norms, rtol=TOLERANCE, atol=TOLERANCE)


def train_on_growing_sequences(config: RunConfig) -> list[float]:
    """Steps on 16 tokens, then on 32, with evaluations of 16 in between, as the papers' 64K stage grows."""
    engine, short = start_engine(config)
    long = BatchFeed(
        SyntheticTokens(config.model.vocab_size, 32),
        replace(config, data=replace(config.data, sequence_length=32)),
        engine.topology,
    )
    losses = []
    for feed in (short, long, long):
        losses += [result.loss for result in run_steps(engine, feed, 0, 2)]
        losses.append(engine.evaluate(short.step(5)).loss)
    return losses


@pytest.mark.parametrize(
    ("processes", "settings"),
    [(2, {"pipeline": 2}), (4, {"pipeline": 2, "tensor": 2, "sequence": True, "document_attention": True})],
    ids=["pp2", "tp2-pp2-sp-documents"],
)
def test_a_longer_sequence_from_some_step_on_works_in_a_pipeline(processes: int, settings: dict[str, object]) -> None:
    config = split(**settings)  # type: ignore[arg-type]
    documents = config.data.document_attention
    expected = run_world(1, train_on_growing_sequences, split(zero=0, micro=8, document_attention=documents))[0]
    assert run_world(processes, train_on_growing_sequences, config)[0] == pytest.approx(expected, abs=TOLERANCE)
