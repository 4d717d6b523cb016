"""One kind of exchange between ranks: who takes part, which operation, how many bytes.

In: a Topology. Out: the ranks of its groups; exchanges, and their totals. Always: the ledger (pretrain/plan/ledger.py)
counts a real step in the same terms, so a formula and a count can be compared number by number.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pretrain.topology import Topology

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"]
Group = Literal["tensor", "data", "pipeline", "tied", "model", "next stage", "previous stage"]
Totals = dict[tuple[tuple[int, ...], Operation], int]
"""bytes by (ranks, operation)"""


@dataclass(frozen=True)
class Exchange:
    """What one rank exchanges in one optimizer step for one purpose."""

    group: Group
    ranks: tuple[int, ...]
    operation: Operation
    purpose: str
    """what is exchanged, in words"""
    whole_bytes: int
    """sum over the step's calls of the size of the whole tensor: what an all-reduce sums, an all-gather returns, a
    reduce-scatter takes; of an all-to-all, what this rank sends or what it receives, the larger"""
    per_micro_batch: bool = False
    """happens for each micro-batch, else once per step"""

    @property
    def wire_bytes(self) -> float:
        """Bytes that this rank sends with ring algorithms; for a receiver, those that it receives."""
        share = (len(self.ranks) - 1) / len(self.ranks)
        passes = {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share}
        return passes.get(self.operation, 1.0) * self.whole_bytes


def group_ranks(topology: Topology, group: Group) -> tuple[int, ...]:
    """The ranks of ``topology.rank``'s group; for a neighbouring stage, this rank and its partner there."""
    rank, tensor, stages = topology.rank, topology.tensor_size, topology.pipeline_size
    stride = tensor * topology.data_size  # from a rank to its partner in the next stage
    own_tensor = range(rank - topology.tensor_rank, rank - topology.tensor_rank + tensor)
    first = rank - topology.stage * stride
    match group:
        case "tensor":
            return tuple(own_tensor)
        case "data":
            start = topology.stage * stride + topology.tensor_rank
            return tuple(range(start, start + stride, tensor))
        case "pipeline":
            return tuple(range(first, topology.world_size, stride))
        case "tied":
            return tuple(dict.fromkeys((first, first + (stages - 1) * stride)))
        case "model":
            return tuple(sorted(other % stride + stage * stride for stage in range(stages) for other in own_tensor))
        case "next stage":
            return (rank, rank + stride)
        case "previous stage":
            return (rank, rank - stride)


def totals(exchanges: Iterable[Exchange]) -> Totals:
    """Bytes by (ranks, operation); exchanges with nobody or of nothing do not count."""
    result: Totals = {}
    for exchange in exchanges:
        if len(exchange.ranks) > 1 and exchange.whole_bytes:
            key = exchange.ranks, exchange.operation
            result[key] = result.get(key, 0) + exchange.whole_bytes
    return result
