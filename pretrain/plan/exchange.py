"""One kind of exchange between ranks: who takes part, which operation, how many bytes.

In: a Topology. Out: the ranks of its groups; exchanges, and their totals. Always: the ledger (pretrain/plan/ledger.py)
counts a real step in the same terms, so a formula and a count can be compared number by number.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pretrain.topology import COPIES, Axis, Topology

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send", "receive"]
Group = Axis | Literal["copies", "sharing", "alike", "tied", "model", "world", "next stage", "previous stage"]
"""who takes part: the ranks along one axis, or others"""
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
    own_bytes: float = 0.0
    """of an all-to-all: how much of ``whole_bytes`` stays on this rank"""
    calls: int = 1
    """among which ``whole_bytes`` are divided"""
    overlaps: bool = False
    """goes on beside the forward and backward passes: pretrain/plan/replicas.py knows what is left of it"""

    @property
    def wire_bytes(self) -> float:
        """Bytes that this rank sends with ring algorithms; for a receiver, those that it receives."""
        share = (len(self.ranks) - 1) / len(self.ranks)
        passes = {"all_reduce": 2 * share, "all_gather": share, "reduce_scatter": share}
        return passes.get(self.operation, 1.0) * self.whole_bytes - self.own_bytes


def group_ranks(topology: Topology, group: Group, partition_ranks: int | None = None) -> tuple[int, ...]:
    """The ranks of ``topology.rank``'s group; for a neighbouring stage, this rank and its partner there."""
    match group:
        case "copies":
            return topology.ranks(*COPIES)
        case "sharing":
            return topology.sharing(partition_ranks)
        case "alike":
            return topology.alike(partition_ranks)
        case "world":
            return tuple(range(topology.world_size))
        case "model":
            return topology.ranks("tensor", "pipeline")
        case "tied":
            ends = (topology.at(pipeline=stage).rank for stage in (0, topology.pipeline_size - 1))
            return tuple(dict.fromkeys(ends))
        case "next stage":
            return (topology.rank, topology.at(pipeline=topology.stage + 1).rank)
        case "previous stage":
            return (topology.rank, topology.at(pipeline=topology.stage - 1).rank)
        case axis:
            return topology.ranks(axis)


def totals(exchanges: Iterable[Exchange]) -> Totals:
    """Bytes by (ranks, operation); exchanges with nobody or of nothing do not count."""
    result: Totals = {}
    for exchange in exchanges:
        if len(exchange.ranks) > 1 and exchange.whole_bytes:
            key = exchange.ranks, exchange.operation
            result[key] = result.get(key, 0) + exchange.whole_bytes
    return result


def summed_by_purpose(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """One exchange for each group, operation and purpose: bytes and calls added up."""
    found: dict[tuple[Group, Operation, str], Exchange] = {}
    for one in exchanges:
        key = one.group, one.operation, one.purpose
        before = found.get(key)
        found[key] = (
            one
            if before is None
            else replace(
                before,
                whole_bytes=before.whole_bytes + one.whole_bytes,
                own_bytes=before.own_bytes + one.own_bytes,
                calls=before.calls + one.calls,
            )
        )
    return list(found.values())
