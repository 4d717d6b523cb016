"""Matrices cut anywhere and split over ranks are changed whole: against the same change in one process."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel import ParameterInfo, describe
from pretrain.optimizers.base import Place
from pretrain.optimizers.whole import WholeMatrices
from tests.world import run_world

SHAPES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "small": ((3, 5), None),
    "rows": ((8, 7), 0),
    "columns": ((6, 20), 1),
    "stack": ((2, 3, 4, 5), None),
    "large": ((12, 11), 0),
    "last": ((2, 2), None),
}
CUTS = {1: [], 2: [97], 4: [20, 21, 160]}
"""ranks among which ZeRO cuts -> borders: inside "rows", in one of its rows; most ranks hold a bit of a matrix"""


def whole_value(name: str) -> Tensor:
    return torch.randn(SHAPES[name][0], generator=torch.Generator().manual_seed(len(name)))


def change(matrix: Tensor, place: Place | None = None) -> Tensor:
    """Every element depends on elements of other ranks."""
    return matrix.flip(-1).cumsum(-2) + matrix.sum(dim=(-2, -1), keepdim=True)


def change_parts(tensor_size: int) -> float:
    """The largest difference of this rank's parts, in a world of 4 split into tensor-parallel groups."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    data_size, rank = 4 // tensor_size, dist.get_rank()
    data_groups = [dist.new_group(list(range(first, 4, tensor_size))) for first in range(tensor_size)]
    tensor_groups = [dist.new_group(list(range(first, first + tensor_size))) for first in range(0, 4, tensor_size)]
    data_rank, tensor_rank = divmod(rank, tensor_size)
    shards = {}
    for name, (_, dim) in SHAPES.items():
        value = whole_value(name)
        shards[name] = value if dim is None else value.chunk(tensor_size, dim=dim)[tensor_rank]
    total = sum(shard.numel() for shard in shards.values())
    bounds = [0, *(cut for cut in CUTS[data_size] if cut < total), total]
    low, high = bounds[data_rank], bounds[data_rank + 1]
    holder = torch.zeros(high - low)
    flat = torch.cat([shard.reshape(-1) for shard in shards.values()])[low:high].clone()
    places, expected, offset = [], torch.empty_like(flat), 0
    for name, shard in shards.items():
        start, stop = max(low - offset, 0), min(high - offset, shard.numel())
        if start < stop:
            shape, dim = SHAPES[name]
            info = ParameterInfo(name, shape, dim, matrix=True)
            parameter = describe(nn.Parameter(torch.zeros(shard.shape)), info)
            at = offset + start - low
            places.append(Place(parameter, holder, at, start, stop - start))
            changed = change(whole_value(name))
            own = changed if dim is None else changed.chunk(tensor_size, dim=dim)[tensor_rank]
            expected[at : at + stop - start] = own.reshape(-1)[start:stop]
        offset += shard.numel()
    matrices = WholeMatrices(
        places,
        data_groups[tensor_rank] if data_size > 1 else None,
        tensor_groups[data_rank] if tensor_size > 1 else None,
    )
    matrices.change(holder, flat, change)
    return float((flat - expected).abs().max())


def change_in_every_split() -> list[float]:
    return [change_parts(tensor_size) for tensor_size in (1, 2, 4)]


def test_parts_of_every_rank_are_those_of_the_whole_matrices() -> None:
    for differences in run_world(4, change_in_every_split):
        assert max(differences) < 1e-5
