"""The communication ledger: what one rank really exchanges, counted while it happens.

In: any code that communicates, as a rule one optimizer step. Out: every collective and message with its ranks and
bytes. Always: it listens below torch.distributed, where DeepSpeed's, megatron-core's and our own calls all pass; an
operation that it does not know is an error, so nothing goes uncounted.

    with Ledger() as ledger:
        engine.train_step(micro_batches, learning_rate)
    assert ledger.totals() == totals(step_communication(config, topology))

The formula holds from the second step on (ZeRO-3: from the third micro-batch): before that, pipeline stages also tell
each other the shapes of their messages, and ZeRO-3 records in which order it needs the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from pretrain.plan.exchange import Operation, Totals
from pretrain.torch_compat import argument_names, dispatch_mode, operation_name, tensors_in

OPERATIONS: dict[str, Operation] = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "allgather_": "all_gather",
    "_allgather_base_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "reduce_scatter_": "reduce_scatter",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
}
"""torch's c10d operators by name"""


@dataclass(frozen=True)
class Entry:
    """One call."""

    ranks: tuple[int, ...]
    """global ranks of the group; of a message, this rank and its partner"""
    operation: Operation
    whole_bytes: int
    """size of the tensor: for an all-gather what it returns, for a reduce-scatter what it takes, for an
    all-to-all the larger side"""


class Ledger(dispatch_mode()):  # type: ignore[misc]
    """Lists what this rank exchanges while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.namespace == "c10d":
            self.entries.append(_entry(function, args))
        return function(*args, **(kwargs or {}))

    def totals(self) -> Totals:
        """Bytes by (ranks, operation); a group of one rank exchanges nothing."""
        result: Totals = {}
        for entry in self.entries:
            if len(entry.ranks) > 1 and entry.whole_bytes:
                key = entry.ranks, entry.operation
                result[key] = result.get(key, 0) + entry.whole_bytes
        return result


def _entry(function: Any, args: Sequence[Any]) -> Entry:
    name = operation_name(function).removeprefix("c10d::")
    if name not in OPERATIONS:
        raise NotImplementedError(f"the ledger does not know the operation {operation_name(function)}")
    operation = OPERATIONS[name]
    named = dict(zip(argument_names(function), args, strict=False))
    ranks = tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(named["process_group"])))
    if operation == "send":
        ranks = (dist.get_rank(), ranks[named["dst"]])
    elif operation == "receive":
        ranks = (dist.get_rank(), ranks[named["src"]])
    # A gather has a small side and a large one; the large one is the whole tensor, also when it is a list of parts.
    sides = [_bytes_of(value) for value in args]
    return Entry(ranks, operation, max(sides))


def _bytes_of(value: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(value))
