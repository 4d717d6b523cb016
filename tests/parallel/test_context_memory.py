"""What a rank holds at most, forward and backward, falls as ranks share samples, and is what the formula says."""

import itertools

import pytest
import torch
import torch.distributed as dist

from model.activations import block_activations
from model.config import ModelConfig
from model.context.base import ALONE, Context
from model.context.gathering import Gathering
from model.context.over_heads import OverHeads
from model.kernels.kept import Kernels
from model.layers import build_layers
from model.layout import Layout
from model.parallel import Unsharded
from model.payload import Payload
from model.recompute import ActivationCheckpointing
from model.split import ContextExchange, Split
from tests.live_bytes import LiveBytes
from tests.model.helpers import CPU
from tests.world import run_world

B, T, PIECES = 1, 480, 4
MODEL = ModelConfig(num_layers=6, hidden_size=64, ffn_hidden_size=168, num_heads=4, head_dim=8, rank=6, vocab_size=96)
CASES: list[tuple[ContextExchange, ActivationCheckpointing]] = list(
    itertools.product(("gather", "heads"), ("none", "selective"))
)
FALLS = 0.15
"""how far c times the peak of one of c ranks may lie above the peak of one alone"""
PLANNED = 0.10


def peaks() -> list[tuple[int, int]]:
    """(counted, planned) for each case."""
    dist.init_process_group("gloo")
    return [(peak(*case), planned(*case, CPU)) for case in CASES]


def peak(exchange: ContextExchange, mode: ActivationCheckpointing) -> int:
    """Bytes that the blocks hold at most in a forward and a backward pass, their parameters and gradients left out."""
    size = dist.get_world_size()
    context: Context = ALONE
    if size > 1:
        context = Gathering(dist.group.WORLD, PIECES) if exchange == "gather" else OverHeads(dist.group.WORLD)
    layers = build_layers(MODEL, Unsharded(), seed=1, activation_checkpointing=mode, kernels=CPU, context=context)
    blocks = [layer.build() for layer in layers if layer.name.startswith("blocks.")]
    weights = [weight for block in blocks for weight in block.parameters()]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    x_TBD = torch.randn(T // size, B, MODEL.hidden_size, requires_grad=True)
    layout = Layout.of(MODEL, T // size, None, x_TBD, CPU, context)
    with LiveBytes([*weights, *(weight.grad for weight in weights), *layout.angles]) as live:
        payload = Payload(x_TBD * 1, layout)
        for block in blocks:
            payload = block(payload)
        payload.x_TBD.sum().backward()
    return live.peak


def planned(exchange: ContextExchange, mode: ActivationCheckpointing, kernels: Kernels) -> int:
    """The same by the formula."""
    split = Split(
        tensor_size=1,
        sequence_parallel=False,
        micro_size=B,
        sequence_length=T,
        element_bytes=4,
        activation_checkpointing=mode,
        context_size=dist.get_world_size(),
        context_exchange=exchange,
        context_pieces=PIECES,
    )
    block = block_activations(MODEL, split, kernels)
    return MODEL.num_layers * block.kept + block.recomputed + split.bytes_of(MODEL.hidden_size)


@pytest.mark.parametrize("size", [2, 4])
def test_the_peak_falls_as_ranks_share_samples(size: int) -> None:
    (alone,) = run_world(1, peaks)
    for shared in run_world(size, peaks):
        for case, (before, _), (counted, formula) in zip(CASES, alone, shared, strict=True):
            assert counted * size == pytest.approx(before, rel=FALLS), case
            assert formula == pytest.approx(counted, rel=PLANNED), case
