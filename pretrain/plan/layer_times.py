"""How long each layer of a stage takes, forward and backward.

In: a RunConfig, a Topology and a Cluster. Out: seconds of one micro-batch for every layer of the rank's stage, in the
order of the forward pass. Always: three rates, one for each kind of work, whatever the layer.

    products       2 operations for each element of a matrix, at a share of the peak; twice as many backward
    attention      as its kernel runs it: the causal half of T x T, twice the products for the two streams of diff
                   and shared_diff, at a share of its own; backward 5 products for 2, as the scores are made again
    memory         what lies between them (norms, rotation, gates, sums): a multiple of the bytes that the block keeps
                   for the backward pass, at the memory's rate; twice as many backward
    loss           a logit is made, read and turned into its gradient: 8 bytes forward, 8 backward

and what is recomputed once more. Of what layers exchange counts what is longer than the product beside it; most have
none. Of a sample that ranks share, each has its part of the attention: in pairs of chunks, all have the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.activations import block_activations
from model.communication import layer_communication
from model.counts import executed_flops, head_flops
from model.split import Collective, Ranks
from pretrain.config import RunConfig
from pretrain.devices import Device
from pretrain.plan.cluster import Cluster
from pretrain.plan.communication import layer_exchange, layer_split
from pretrain.plan.kernels import planned_kernels
from pretrain.plan.layers import stage_layers
from pretrain.topology import Topology

ATTENTION_BACKWARD = 2.5
"""products of the backward pass for one of the forward pass"""
LOGIT_BYTES = 8
"""moved for each logit in one pass"""


@dataclass(frozen=True)
class Waits:
    """Seconds of a layer's exchanges, of one pass or of both."""

    tensor: float = 0.0
    """for which tensor-parallel ranks wait"""
    context: float = 0.0
    """for which ranks wait that share samples"""
    beside: float = 0.0
    """of theirs, the rest: what goes on beside attention products"""

    def __add__(self, other: "Waits") -> "Waits":
        return Waits(self.tensor + other.tensor, self.context + other.context, self.beside + other.beside)


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer for one micro-batch."""

    forward: float
    backward: float
    """both with what they wait for"""
    waits: Waits
    """of both"""

    @property
    def compute(self) -> float:
        """The rest."""
        return self.forward + self.backward - self.waits.tensor - self.waits.context


def layer_times(config: RunConfig, topology: Topology, cluster: Cluster) -> list[LayerTime]:
    """Of the layers of ``topology``'s stage."""
    exchanged = layer_communication(config.model, layer_split(config, topology))
    peak = peak_flops(config, cluster.device)
    speeds: dict[Ranks, float] = {
        "tensor": peak * cluster.efficiency,
        "context": peak * cluster.attention_efficiency,
    }

    def waited(collectives: Sequence[Collective]) -> Waits:
        total = Waits()
        for one in collectives:
            if topology.size(one.ranks) == 1:
                continue
            seconds = cluster.seconds(layer_exchange(topology, one))
            here = exposed(seconds, one.beside / speeds[one.ranks], one.pieces)
            total += Waits(here) if one.ranks == "tensor" else Waits(context=here, beside=seconds - here)
        return total

    compute = {"embedding": (0.0, 0.0), **_computed(config, topology, cluster)}
    parts = {"head": ("head", "loss")}
    by_kind: dict[str, LayerTime] = {}
    for kind, (forward, backward) in compute.items():
        of_parts = [exchanged[part] for part in parts.get(kind, (kind,))]
        there = sum((waited(part.forward) for part in of_parts), Waits())
        back = sum((waited(part.backward) for part in of_parts), Waits())
        by_kind[kind] = LayerTime(
            forward + there.tensor + there.context, backward + back.tensor + back.context, there + back
        )
    names = (layer.name for layer in stage_layers(config, topology))
    return [by_kind.get("block" if name.startswith("blocks.") else name, NOTHING) for name in names]


def exposed(exchange: float, product: float, pieces: int) -> float:
    """Seconds that an exchange takes longer than the product beside it.

    In one piece they begin together. In several, each piece is sent when it is computed, so that the last one travels
    alone; or each is computed when it is there, and the first does.
    """
    last = exchange / pieces if pieces > 1 else 0.0
    return last + max(0.0, exchange - last - product * (pieces - 1) / pieces if pieces > 1 else exchange - product)


def _computed(config: RunConfig, topology: Topology, cluster: Cluster) -> dict[str, tuple[float, float]]:
    """Seconds forward and backward of a block and of the head."""
    split = layer_split(config, topology)
    tokens = split.tokens
    peak = topology.tensor_size * peak_flops(config, cluster.device)
    memory = cluster.device.memory_bandwidth
    everything, of_attention = executed_flops(config.model, split.sequence_length)
    kept = block_activations(
        config.model, replace(split, activation_checkpointing="none"), planned_kernels(config)
    ).kept
    products = tokens * (everything - of_attention) / (peak * cluster.efficiency)
    attention = tokens * of_attention / (peak * cluster.attention_efficiency)
    swish = split.bytes_of(config.model.ffn_hidden_size // split.tensor_size)  # made again: it passes, too
    between = cluster.traffic * (kept + swish) / memory
    forward = products + attention + between
    again = (forward if split.activation_checkpointing == "full" else 0.0) + (attention if split.attends_again else 0.0)
    head = tokens * head_flops(config.model) / (peak * cluster.efficiency)
    loss = LOGIT_BYTES * tokens * config.model.vocab_size / topology.tensor_size / memory
    return {
        "block": (forward, 2 * products + ATTENTION_BACKWARD * attention + 2 * between + again),
        "head": (head + loss, 2 * head + loss),
    }


NOTHING = LayerTime(0.0, 0.0, Waits())
"""a norm"""


def peak_flops(config: RunConfig, device: Device) -> float:
    """Of one device in the config's arithmetic."""
    return device.bf16_flops if config.train.precision == "bf16" else device.fp32_flops
