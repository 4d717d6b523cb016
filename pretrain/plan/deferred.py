"""What it needs, and what it saves, to defer the gradients of weights (`parallel.pipeline_schedule: zero_bubble`).

In: a RunConfig and a Topology. Out: micro-batches and bytes in hand, operations. Always: pure arithmetic; nothing under
another schedule. Tests compare the bytes with a real step's peak (tests/pretrain/plan/test_memory.py).

Of each linear layer of a block the product keeps its input and the gradient of its output: with the residual stream D,
n features for each column- and row-parallel weight [n, D] or [D, n] of this rank, and D' = D (D/t with sequence
parallelism)

    elements per token and block      2 D' + 2 D + sum of n

(the low-rank projections that run in the same products, R of D features, are left out).

On stage s of p, f = min(p - s, M) micro-batches are between forward and backward pass, and most is there when a forward
pass ends, with the products of s micro-batches, or when a backward pass does, with one more of these and one less of
the others.
"""

from dataclasses import dataclass

from model.parallel import ParameterInfo
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps
from pretrain.plan.communication import boundary_bytes, layer_split
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.topology import Topology


@dataclass(frozen=True)
class InHand:
    """What one stage has under way where it holds most."""

    in_flight: int
    """micro-batches between forward and backward pass"""
    deferred: int
    """micro-batches whose weights' gradients are not computed yet"""
    activations: int
    """bytes of both"""
    transient: int
    """bytes that are there for a moment"""


def in_hand(config: RunConfig, topology: Topology, activations: int, forward: int, backward: int) -> InHand:
    """Of ``topology``'s stage.

    Args:
        activations: bytes that one micro-batch in flight keeps.
        forward, backward: bytes that are there for a moment when a forward pass ends, and in a backward pass.
    """
    steps, stage = accumulation_steps(config, topology), topology.stage
    in_flight = min(topology.pipeline_size - stage, steps)
    either = max(forward, backward)
    if not defers(config):
        return InHand(in_flight, 0, in_flight * activations, either)
    one = _bytes(config, topology)
    after_forward = in_flight, min(stage, steps - in_flight), either
    after_backward = in_flight - 1, min(stage + 1, steps - in_flight + 1), backward
    held = [
        InHand(flying, deferred, flying * activations + deferred * one, transient)
        for flying, deferred, transient in (after_forward, after_backward)
    ]
    return max(held, key=lambda one: one.activations + one.transient)


def deferred_flops(config: RunConfig, topology: Topology) -> int:
    """Operations of one micro-batch's deferred products on one rank of the stage."""
    if not defers(config):
        return 0
    tokens = layer_split(config, topology).tokens
    return 2 * tokens * sum(elements_per_rank(info, topology.tensor_size) for info in _weights(config, topology))


def defers(config: RunConfig) -> bool:
    """Whether stages defer anything."""
    return config.parallel.pipeline > 1 and config.parallel.pipeline_schedule == "zero_bubble"


def _bytes(config: RunConfig, topology: Topology) -> int:
    """What the deferred products of one micro-batch keep on this rank."""
    weights, width = _weights(config, topology), config.model.hidden_size
    blocks = len({info.name.split(".")[1] for info in weights})
    whole = layer_split(config, topology).bytes_of(1)
    features = sum(elements_per_rank(info, topology.tensor_size) for info in weights) // width
    return blocks * 2 * (boundary_bytes(config, topology) + whole * width) + whole * features


def _weights(config: RunConfig, topology: Topology) -> list[ParameterInfo]:
    """The linear layers' of the stage's blocks."""
    return [info for info in stage_parameters(config, topology) if info.matrix and len(info.full_shape) == 2]
