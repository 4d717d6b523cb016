"""Where a run is planned for, and how long one exchange takes there.

In: a Device, the size of a node, an Exchange. Out: seconds. Always: an exchange takes the latency of its calls and its
bytes at the speed of its slowest link; links of ranks that leave the node are those between nodes, one for each rank.

Latencies and what a protocol makes of a link's rate are those that NCCL itself chooses by (src/graph/tuning.cc of
June 2026: baseLatencies, hwLatencies, busBw): a ring's first byte takes a step for every rank but one, so it grows with
the number of ranks; all-reduces may take a tree, which grows with the logarithm of the number of nodes. They are its
makers' figures for their machines, not measured here. Of gloo, on which the lab runs, bytes count alone, as gloo moves
them: its reduce-scatter is an all-reduce.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pretrain.devices import ATTENTION_EFFICIENCY, DEFAULT_DEVICE, EFFICIENCY, GPUS_PER_NODE, TRAFFIC, Device
from pretrain.plan.exchange import Exchange

Link = Literal["node", "network"]
"""what an exchange occupies: the links inside the node, or those between nodes"""


@dataclass(frozen=True)
class Protocol:
    """One of NCCL's ways to move bytes."""

    base: float
    """seconds of a call, whatever it exchanges"""
    inside: float
    """seconds of a step to a rank of the same node"""
    between: float
    """seconds of a step to another node"""
    rate: float
    """share of the link's rate that it reaches"""

    def seconds(self, inside: float, between: float, sent: float, bandwidth: float) -> float:
        """Of one call with so many steps inside a node and between nodes, in which a rank sends ``sent`` bytes."""
        return self.base + inside * self.inside + between * self.between + sent / (bandwidth * self.rate)


RING = (
    Protocol(6.6e-6, 0.6e-6, 2.7e-6, 0.5),
    Protocol(14.0e-6, 1.9e-6, 4.0e-6, 0.92),
    Protocol(8.4e-6, 3.4e-6, 14.0e-6, 1.0),
)
TREE = (
    Protocol(6.8e-6, 0.6e-6, 5.0e-6, 0.92 / 3.8),
    Protocol(14.0e-6, 1.25e-6, 8.5e-6, 0.92 * 120 / 128),
    Protocol(8.4e-6, 4.0e-6, 14.0e-6, 0.92),
)
"""LL, LL128 and Simple"""


@dataclass(frozen=True)
class Cluster:
    """Where a run is planned for."""

    device: Device
    device_name: str = DEFAULT_DEVICE
    gpus_per_node: int = GPUS_PER_NODE
    efficiency: float = EFFICIENCY
    attention_efficiency: float = ATTENTION_EFFICIENCY
    traffic: float = TRAFFIC
    """as pretrain/devices.py has them"""
    backend: Literal["nccl", "gloo"] = "nccl"
    measured: str | None = None
    """when and with what these rates were measured; None: they are a data sheet's and assumed"""

    def link(self, ranks: Sequence[int]) -> Link:
        """The slowest link between ``ranks``, which fill the nodes one after the other."""
        return "node" if self._nodes(ranks) == 1 else "network"

    def bandwidth(self, exchange: Exchange) -> float:
        """Bytes/s with which one of its ranks sends.

        Between nodes a ring passes each node's border once for all of the node's ranks, and NCCL lays a ring through
        every network card: k ranks of a node together send as fast as k cards, up to what the links inside the node
        carry. In an all-to-all every rank has other bytes for every other, and a card of its own for all of them.
        """
        if self.link(exchange.ranks) == "node":
            return self.device.link
        if exchange.operation == "all_to_all":
            return self.device.network
        per_node = len(exchange.ranks) // self._nodes(exchange.ranks)
        return min(self.device.link, per_node * self.device.network)

    def seconds(self, exchange: Exchange) -> float:
        """Of all the calls of one exchange in one step, one after the other."""
        sent = exchange.wire_bytes / exchange.calls
        bandwidth = self.bandwidth(exchange)
        if self.backend == "gloo":
            return (2 if exchange.operation == "reduce_scatter" else 1) * exchange.calls * sent / bandwidth
        nodes = self._nodes(exchange.ranks)
        steps = {"send": 1, "receive": 1, "all_reduce": 2 * (len(exchange.ranks) - 1)}
        inside, between = _ring_steps(steps.get(exchange.operation, len(exchange.ranks) - 1), nodes, exchange)
        options = [protocol.seconds(inside, between, sent, bandwidth) for protocol in RING]
        if exchange.operation == "all_reduce":
            whole, up, across = (
                2 * exchange.whole_bytes / exchange.calls,
                len(exchange.ranks) / nodes - 1,
                math.log2(nodes),
            )
            options += [protocol.seconds(2 * up, 2 * across, whole, bandwidth) for protocol in TREE]
        return exchange.calls * min(options)

    def late(self, exchange: Exchange) -> float:
        """Seconds from when the link is free again until one call has arrived.

        gloo answers on the way on which it sends, so the rank that comes to an exchange last sends its part before it
        asks for the other's: they cross the network one after the other.
        """
        turns = self.backend == "gloo" and exchange.operation in ("all_to_all", "all_gather")
        return self.seconds(exchange) / exchange.calls if turns else 0.0

    def _nodes(self, ranks: Sequence[int]) -> int:
        return len({rank // self.gpus_per_node for rank in ranks})


def _ring_steps(steps: int, nodes: int, exchange: Exchange) -> tuple[int, int]:
    """Of a ring's steps, those inside nodes and those between them."""
    if nodes == 1:
        return steps, 0
    rounds = 2 if exchange.operation == "all_reduce" else 1
    between = min(steps, rounds * (nodes - 1))
    return steps - between, between
