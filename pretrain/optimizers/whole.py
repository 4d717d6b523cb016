"""Whole matrices, of which each rank holds a part: put together, changed, and each rank's part taken back.

In: values beside this rank's fp32 weights, cut as those are: by tensor parallelism along one dimension of a matrix, by
ZeRO anywhere. Out: the same values, of matrices that were changed as a whole. Always: every rank that holds a part of a
matrix changes the whole of it, from the same numbers; so nothing has to be sent back.

A partition of ZeRO is contiguous, so only its first and its last matrix can reach beyond it: one exchange between
data-parallel ranks completes these. A matrix that is split over tensor-parallel ranks is then gathered, one at a time.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from model.parallel import info_of
from pretrain.optimizers.base import BYTES_PER_ELEMENT, HeldPart, Place, UpdateCost

Piece = tuple[int, int, int]
"""(rank in the group, start in the flattened shard, elements) of what another rank holds of a matrix"""


class WholeMatrices:
    """The matrices that this rank updates at least a part of; made by all ranks of ``data_group`` at once.

    Args:
        places: where this rank keeps its parts, in the same order of parameters on all ranks.
        data_group: the ranks among which ZeRO has cut the matrices; None where each holds them whole.
        tensor_group: the ranks among which tensor parallelism has; None where it has not.
    """

    def __init__(
        self, places: Sequence[Place], data_group: dist.ProcessGroup | None, tensor_group: dist.ProcessGroup | None
    ) -> None:
        self._data_group = data_group
        self._tensor_group = tensor_group
        self._places: dict[Tensor, list[Place]] = {}
        for place in places:
            self._places.setdefault(place.holder, []).append(place)
        self._others: dict[str, list[Piece]] = {}
        self._is_cut = False
        if data_group is not None:
            self._ask_others(places, data_group)

    def _ask_others(self, places: Sequence[Place], group: dist.ProcessGroup) -> None:
        mine = {info_of(place.parameter).name: (place.start, place.numel) for place in places}
        held: list[dict[str, tuple[int, int]]] = [{} for _ in range(group.size())]
        dist.all_gather_object(held, mine, group=group)
        for rank, parts in enumerate(held):
            for name in parts.keys() & mine.keys() if rank != group.rank() else ():
                self._others.setdefault(name, []).append((rank, *parts[name]))
        names = [name for parts in held for name in parts]
        self._is_cut = len(names) > len(set(names))

    @torch.no_grad()
    def change(self, holder: Tensor, values: Tensor, function: Callable[[Tensor, Place], Tensor]) -> None:
        """Applies ``function`` to every matrix whole, and writes this rank's parts of the results into ``values``.

        Args:
            holder: what the optimizer updates. values: beside it, of as many elements.
            function: a whole parameter's values [..., n, m], and the place of this rank's part -> the same shape.
        """
        flat = values.view(-1)
        places = self._places.get(holder, [])
        received = self._exchange(flat, places)
        for place in places:
            self._change_one(flat.narrow(0, place.offset, place.numel), place, received, function)

    def _change_one(
        self,
        part: Tensor,
        place: Place,
        received: dict[str, list[tuple[int, Tensor]]],
        function: Callable[[Tensor, Place], Tensor],
    ) -> None:
        """By itself, so that nothing of a matrix is left when the next one is gathered."""
        dim = info_of(place.parameter).shard_dim
        shard = self._shard(place, part, received).view(place.parameter.shape)
        if dim is None or self._tensor_group is None:
            changed = function(shard, place)
        else:
            whole = function(self._gathered(shard, dim), place)
            changed = whole.chunk(self._tensor_group.size(), dim=dim)[self._tensor_group.rank()]
        part.copy_(changed.reshape(-1).narrow(0, place.start, place.numel))

    def _exchange(self, flat: Tensor, places: Sequence[Place]) -> dict[str, list[tuple[int, Tensor]]]:
        """What others hold of the matrices that are not whole here: (start in the shard, values), by name."""
        if self._data_group is None or not self._is_cut:
            return {}
        size = self._data_group.size()
        send: list[list[Tensor]] = [[] for _ in range(size)]
        wanted: list[list[tuple[str, int, int]]] = [[] for _ in range(size)]
        for place in places:
            name = info_of(place.parameter).name
            for rank, start, numel in self._others.get(name, ()):
                send[rank].append(flat.narrow(0, place.offset, place.numel))
                wanted[rank].append((name, start, numel))
        outgoing = torch.cat([flat.new_empty(0), *(part for parts in send for part in parts)])
        incoming = flat.new_empty(sum(numel for parts in wanted for _, _, numel in parts))
        dist.all_to_all_single(
            incoming,
            outgoing,
            [sum(numel for _, _, numel in parts) for parts in wanted],
            [sum(part.numel() for part in parts) for parts in send],
            group=self._data_group,
        )
        received: dict[str, list[tuple[int, Tensor]]] = {}
        offset = 0
        for parts in wanted:
            for name, start, numel in parts:
                received.setdefault(name, []).append((start, incoming.narrow(0, offset, numel)))
                offset += numel
        return received

    def _shard(self, place: Place, part: Tensor, received: dict[str, list[tuple[int, Tensor]]]) -> Tensor:
        """This rank's shard, flattened: ``part`` where that is all of it."""
        if place.numel == place.parameter.numel():
            return part
        shard = part.new_empty(place.parameter.numel())
        shard.narrow(0, place.start, place.numel).copy_(part)
        for start, values in received[info_of(place.parameter).name]:
            shard.narrow(0, start, values.numel()).copy_(values)
        return shard

    def _gathered(self, shard: Tensor, dim: int) -> Tensor:
        assert self._tensor_group is not None
        shards = [torch.empty_like(shard) for _ in range(self._tensor_group.size())]
        dist.all_gather(shards, shard, group=self._tensor_group)
        return torch.cat(shards, dim=dim)


def exchange_cost(parts: Sequence[HeldPart], workspaces: Sequence[int], flops: float) -> UpdateCost:
    """What ``WholeMatrices`` costs a rank that holds ``parts``, with what the function on each of them takes."""
    cut = [part for part in parts if part.holders > 1]
    sent = BYTES_PER_ELEMENT * sum(part.numel * (part.holders - 1) for part in cut)
    received = BYTES_PER_ELEMENT * sum(part.shard - part.numel for part in cut)
    gathered = [BYTES_PER_ELEMENT * part.shard * part.split if part.split > 1 else 0 for part in parts]
    at_once = []
    for part, whole, workspace in zip(parts, gathered, workspaces, strict=True):
        shard = BYTES_PER_ELEMENT * part.shard if part.holders > 1 else 0
        at_once.append(shard + whole + max(whole, workspace))  # the shards beside the whole, or what follows
    return UpdateCost(sum(gathered), max(sent, received), sent + received + max(at_once, default=0), flops)
