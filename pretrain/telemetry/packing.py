"""One buffer for all numbers of a step, added up over the ranks at once.

In: the names that the model can record, and what this rank recorded. Out: the finished numbers. Always: every rank has
the same names in the same order, and gives what changes nothing for those that it did not record; sums and largest
values are halves of one buffer, one reduction each, and one copy brings the result to the host.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from model.recorder import Recorded, Reduce, finished


class Packing:
    """The places of the names in the buffer."""

    def __init__(self, numbers: Mapping[str, Reduce]) -> None:
        self._reduces = dict(numbers)
        self._summed = [name for name, reduce in numbers.items() if reduce != "max"]
        self._largest = [name for name, reduce in numbers.items() if reduce == "max"]

    def pack(self, entries: Mapping[str, Recorded], device: torch.device) -> Tensor:
        """fp64: (sum, weight) of each summed name, then the largest values.

        Raises:
            KeyError: something was recorded that the plain model does not record.
        """
        unknown = [name for name in entries if name not in self._reduces]
        if unknown:
            raise KeyError(f"{unknown[0]}: recorded, but not by the plain model on the meta device with two tokens")
        nothing = torch.zeros(2, dtype=torch.float64, device=device)
        lowest = torch.full((1,), -torch.inf, dtype=torch.float64, device=device)
        sums = [entries[name].parts.to(device) if name in entries else nothing for name in self._summed]
        largest = [entries[name].parts.to(device) if name in entries else lowest for name in self._largest]
        return torch.cat([*sums, *largest])

    def reduce(self, packed: Tensor) -> None:
        """Adds up over all ranks, in place; a collective call."""
        if dist.get_world_size() == 1:
            return
        sums = 2 * len(self._summed)
        dist.all_reduce(packed[:sums])
        dist.all_reduce(packed[sums:], op=dist.ReduceOp.MAX)

    def unpack(self, packed: Tensor) -> dict[str, float]:
        """The number of each name, in the order of the names; NaN where no rank recorded any. Waits for the device."""
        values = packed.tolist()
        sums = 2 * len(self._summed)
        numbers = {
            name: finished(self._reduces[name], *values[2 * place : 2 * place + 2])
            for place, name in enumerate(self._summed)
        }
        numbers |= dict(zip(self._largest, values[sums:], strict=True))
        return {name: numbers[name] for name in self._reduces}
