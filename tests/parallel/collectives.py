"""Listens to torch.distributed: which collectives run, and how large the whole tensor of each is."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = {
    "c10d::allreduce_": "all_reduce",
    "c10d::_allgather_base_": "all_gather",
    "c10d::_reduce_scatter_base_": "reduce_scatter",
}


class CollectiveCounter(TorchDispatchMode):
    """Notes (operation, bytes of the whole tensor) of every collective that this rank starts while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            first = args[0] if isinstance(args[0], torch.Tensor) else args[0][0]
            tensors = [first, args[1]] if isinstance(args[1], torch.Tensor) else [first]
            self.seen.append((OPERATIONS[function._schema.name], max(tensor.nbytes for tensor in tensors)))
        return function(*args, **(kwargs or {}))
