"""How long each layer of a stage takes, forward and backward.

In: a RunConfig, a Topology and a Cluster. Out: seconds of one micro-batch for every layer of the rank's stage, in the
order of the forward pass. Always: every floating-point operation at the same share of the device's peak; the backward
pass takes twice the forward pass, and what is recomputed. Attention is charged as its kernel runs it: the causal half
of T x T, twice the products for the two stacked streams of diff and shared_diff. Of what tensor-parallel ranks exchange
counts what is longer than the product beside it; most have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.communication import layer_communication
from model.counts import executed_flops, head_flops
from model.split import Collective
from pretrain.config import RunConfig
from pretrain.devices import Device
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import layer_split
from pretrain.plan.exchange import Exchange
from pretrain.plan.layers import stage_layers
from pretrain.topology import Topology


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer for one micro-batch."""

    forward: float
    backward: float
    """both with what they wait for"""
    exchange: float
    """of both: what tensor-parallel ranks wait for"""

    @property
    def compute(self) -> float:
        """The rest."""
        return self.forward + self.backward - self.exchange


def layer_times(config: RunConfig, topology: Topology, cluster: Cluster) -> list[LayerTime]:
    """Of the layers of ``topology``'s stage."""
    exchanged = layer_communication(config.model, layer_split(config, topology))
    group = topology.ranks("tensor")
    own_speed = peak_flops(config, cluster.device) * cluster.efficiency
    speed = topology.tensor_size * own_speed

    def waited(collectives: Sequence[Collective]) -> float:
        exchanges = (Exchange("tensor", group, one.operation, one.purpose, one.whole_bytes) for one in collectives)
        taken = (cluster.seconds(exchange) if len(group) > 1 else 0.0 for exchange in exchanges)
        return sum(max(0.0, time - one.beside / own_speed) for time, one in zip(taken, collectives, strict=True))

    block, product = executed_flops(config.model, config.data.sequence_length)
    again = {"none": 0.0, "selective": product, "full": block}[config.train.activation_checkpointing]
    head = head_flops(config.model)
    tokens = config.batch.micro_size * config.data.sequence_length
    flops = {"block": (block, 2 * block + again), "head": (head, 2 * head)}
    parts = {"head": ("head", "loss")}
    by_kind: dict[str, LayerTime] = {}
    for kind in ("embedding", "block", "head"):
        forward, backward = (tokens * count / speed for count in flops.get(kind, (0.0, 0.0)))
        there = sum(waited(exchanged[part].forward) for part in parts.get(kind, (kind,)))
        back = sum(waited(exchanged[part].backward) for part in parts.get(kind, (kind,)))
        by_kind[kind] = LayerTime(forward + there, backward + back, there + back)
    names = (layer.name for layer in stage_layers(config, topology))
    return [by_kind.get("block" if name.startswith("blocks.") else name, NOTHING) for name in names]


NOTHING = LayerTime(0.0, 0.0, 0.0)
"""a norm"""


def peak_flops(config: RunConfig, device: Device) -> float:
    """Of one device in the config's arithmetic."""
    return device.bf16_flops if config.train.precision == "bf16" else device.fp32_flops
