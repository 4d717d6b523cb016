"""Training on samples that are split over ranks is training on one process: 20 steps within 1e-5 in fp32."""

import functools
from dataclasses import replace

import pytest
import torch

from pretrain.config import RunConfig
from tests.parallel.training import Trace, train, variant
from tests.world import run_world

TOLERANCE = 1e-5
LENGTH = 24
"""tokens of a sample: chunks of 6 with two ranks, of 3 with four"""


def split(
    attention: str = "shared_diff",
    documents: bool = False,
    groups: int | None = None,
    reading: tuple[str, str] = ("layer", "layer"),
    zero: int = 1,
    micro: int = 4,
    recompute: str = "none",
    form: str = "auto",
    **parallel: object,
) -> RunConfig:
    base, down = reading
    return variant(
        model={"attention": attention, "num_kv_heads": groups, "base": base, "down": down},
        data={"document_attention": documents, "sequence_length": LENGTH},
        parallel={"zero_stage": zero, **parallel},
        batch={"micro_size": micro},
        train={"activation_checkpointing": recompute, "attention_form": form},
    )


# (processes, split): each mechanism stands in at least one case that fails when it is broken.
CASES = {
    "context2": (2, {"context": 2}),
    "context4-zero2-diff-documents": (4, {"context": 4, "zero": 2, "attention": "diff", "documents": True}),
    "context2-tp2-sp-diff_v2-selective": (
        4,
        {
            "context": 2,
            "tensor": 2,
            "sequence": True,
            "attention": "diff_v2",
            "recompute": "selective",
            "form": "sdpa",
            "documents": True,
        },
    ),
    "context2-pp2-standard-full": (
        4,
        {"context": 2, "pipeline": 2, "attention": "standard", "recompute": "full", "documents": True},
    ),
    "context2-zero3-grouped-head-head": (2, {"context": 2, "zero": 3, "groups": 2, "reading": ("head", "head")}),
    "context2-dp2-accumulation-pieces": (4, {"context": 2, "micro": 2, "context_pieces": 3}),
    "context2-zero0-dp2-full": (4, {"context": 2, "zero": 0, "micro": 2, "recompute": "full", "form": "sdpa"}),
    "heads2-diff_v2-documents": (
        2,
        {"context": 2, "context_exchange": "heads", "attention": "diff_v2", "documents": True},
    ),
    "heads2-tp2-grouped-selective": (
        4,
        {"context": 2, "context_exchange": "heads", "tensor": 2, "groups": 4, "recompute": "selective", "form": "sdpa"},
    ),
}


@functools.cache
def single_process(attention: str, documents: bool, groups: int | None, reading: tuple[str, str]) -> Trace:
    """The yardstick: plain layers, no ZeRO, no accumulation."""
    config = split(attention, documents, groups, reading, zero=0, micro=8)
    return run_world(1, train, config)[0]


@pytest.mark.parametrize("name", CASES)
def test_losses_and_norms_equal_the_single_process(name: str) -> None:
    processes, settings = CASES[name]
    config = split(**settings)  # type: ignore[arg-type]
    model = config.model
    expected = single_process(
        model.attention, config.data.document_attention, model.num_kv_heads, (model.base, model.down)
    )
    for trace in run_world(processes, train, config):
        torch.testing.assert_close(trace.losses, expected.losses, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(trace.grad_norms, expected.grad_norms, rtol=TOLERANCE, atol=TOLERANCE)


def test_recomputation_changes_no_bit_and_pieces_only_the_order_of_a_sum() -> None:
    """The gradient of a head's lambda is summed over pieces."""
    config = split(context=2, documents=True, zero=1)
    variants = [
        replace(
            config,
            parallel=replace(config.parallel, context_pieces=pieces),
            train=replace(config.train, activation_checkpointing=mode, steps=3),
        )
        for pieces, mode in ((3, "none"), (3, "selective"), (3, "full"), (1, "none"))
    ]
    *modes, at_once = [run_world(2, train, one)[0] for one in variants]
    assert modes[0].losses == modes[1].losses == modes[2].losses
    assert modes[0].grad_norms == modes[1].grad_norms == modes[2].grad_norms
    assert at_once.losses[0] == modes[0].losses[0]
    assert at_once.grad_norms == pytest.approx(modes[0].grad_norms, rel=1e-9)
