"""Which rank does what: the frozen map between a rank and its place along each parallel axis.

In: the world size and the `parallel` section. Out: a Topology; pretrain/engines/connection.py makes its process groups.
Always: ranks count through the axes in the order of AXES, the first one fastest: tensor-parallel ranks are neighbours,
pipeline stages are farthest apart. DeepSpeed's PipeModelDataParallelTopology and megatron-core's order
"tp-cp-ep-dp-pp" are this same map. No other file computes with ranks and sizes of axes; it asks a Topology.

Along `data` ranks read different samples, along `context` different parts of the same ones; along both they hold the
same weights, so gradients are summed over both, and ZeRO cuts its state among them (COPIES).

A new axis is a name in Axis, at the place where its ranks shall lie, and its size in `replica_sizes`, from a setting of
the `parallel` section. Ranks, places, groups, refusals of world sizes and descriptions follow. Then it is told to whom
it concerns: pretrain/engines/connection.py and stages.py make its groups, pretrain/checks.py refuses what it cannot
split, and pretrain/plan/communication.py counts what it exchanges.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from common.environment import whole_number
from common.errors import InputError
from model.checks import nearest_multiples
from pretrain.config import ParallelConfig

Axis = Literal["tensor", "context", "data", "pipeline"]
"""what ranks can differ in"""
AXES: tuple[Axis, ...] = get_args(Axis)
"""all axes; neighbouring ranks differ along the first one"""
COPIES: tuple[Axis, ...] = ("context", "data")
"""the axes along which ranks hold copies of the same weights"""


@dataclass(frozen=True)
class Topology:
    """One rank's place among all ranks."""

    rank: int
    local_rank: int
    """among the processes of its node"""
    sizes: tuple[int, ...]
    """ranks along each axis, in the order of AXES"""
    sequence_parallel: bool

    @property
    def world_size(self) -> int:
        """All ranks."""
        return math.prod(self.sizes)

    def size(self, axis: Axis) -> int:
        """How many ranks lie along ``axis``."""
        return self.sizes[AXES.index(axis)]

    def index(self, axis: Axis) -> int:
        """This rank's place along ``axis``, counted from 0."""
        return self.rank // self._stride(axis) % self.size(axis)

    def ranks(self, *axes: Axis) -> tuple[int, ...]:
        """The ranks that lie with this one along ``axes``, itself included, ascending: alike in all other axes.

        With 3 tensor-parallel ranks, ``ranks("tensor")`` of rank 4 is ``(3, 4, 5)``.
        """
        found = [self.at(**dict.fromkeys(axes, 0)).rank]
        for axis in sorted(set(axes), key=AXES.index):
            steps = range(0, self.size(axis) * self._stride(axis), self._stride(axis))
            found = [rank + step for step in steps for rank in found]
        return tuple(found)

    def at(self, **indices: int) -> "Topology":
        """The rank that differs from this one in its place along the named axes, as in ``at(pipeline=0)``.

        Its ``local_rank`` stays this rank's: another rank's is known to its own process only.

        Raises:
            ValueError: there is no such axis, or no such place along it.
        """
        if unknown := indices.keys() - set(AXES):
            raise ValueError(f"the axes are {', '.join(AXES)}, not {', '.join(sorted(unknown))}")
        rank = 0
        for axis in AXES:
            index = indices.get(axis, self.index(axis))
            if not 0 <= index < self.size(axis):
                raise ValueError(f"{axis}: there are places 0 to {self.size(axis) - 1}, not {index}")
            rank += index * self._stride(axis)
        return replace(self, rank=rank)

    def sharing(self, ranks: int | None) -> tuple[int, ...]:
        """The ranks with copies of this one's weights among which state is cut: ``ranks`` neighbours, or all."""
        line, size = self.ranks(*COPIES), ranks or self.copies
        first = self.copy // size * size
        return line[first : first + size]

    def alike(self, ranks: int | None) -> tuple[int, ...]:
        """The ranks that keep the same part of the state as this one, where ``ranks`` share it."""
        size = ranks or self.copies
        return self.ranks(*COPIES)[self.copy % size :: size]

    def firsts(self, *axes: Axis) -> tuple["Topology", ...]:
        """One rank for each place along ``axes``, ascending: the first of those that lie there."""
        origin = replace(self, rank=0)
        return tuple(replace(origin, rank=rank) for rank in origin.ranks(*axes))

    def lines(self, *axes: Axis) -> list[list[int]]:
        """All groups of ranks that are alike but for ``axes``, each ascending: every rank is in one."""
        others = [axis for axis in AXES if axis not in axes]
        return [list(first.ranks(*axes)) for first in self.firsts(*others)]

    @property
    def tensor_size(self) -> int:
        """Tensor-parallel size."""
        return self.size("tensor")

    @property
    def context_size(self) -> int:
        """Ranks over which a sample's tokens are split."""
        return self.size("context")

    @property
    def data_size(self) -> int:
        """Data-parallel size: ranks that read different samples."""
        return self.size("data")

    @property
    def copies(self) -> int:
        """Ranks with the same weights."""
        return self.context_size * self.data_size

    @property
    def pipeline_size(self) -> int:
        """Pipeline stages."""
        return self.size("pipeline")

    @property
    def tensor_rank(self) -> int:
        """Place in the tensor-parallel group."""
        return self.index("tensor")

    @property
    def context_rank(self) -> int:
        """Place in the context-parallel group."""
        return self.index("context")

    @property
    def data_rank(self) -> int:
        """Place in the data-parallel group."""
        return self.index("data")

    @property
    def copy(self) -> int:
        """Place among the ranks with the same weights."""
        return self.ranks(*COPIES).index(self.rank)

    @property
    def stage(self) -> int:
        """Pipeline stage, counted from 0."""
        return self.index("pipeline")

    @property
    def is_main(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0

    def describe(self) -> str:
        """The topology in words, as in "tensor 2 x pipeline 2 x data 2"; what is left over for data comes last."""
        axes = sorted(AXES, key=lambda axis: axis == "data")
        sequence = " with sequence parallelism" if self.sequence_parallel else ""
        return _in_words({axis: self.size(axis) for axis in axes}) + sequence

    def _stride(self, axis: Axis) -> int:
        """From a rank to the next one along ``axis``."""
        return math.prod(self.sizes[: AXES.index(axis)])


def replica_sizes(config: ParallelConfig) -> dict[Axis, int]:
    """Ranks along each axis of one replica of the model; the other axis, data, is left over for replicas."""
    return {"tensor": config.tensor, "context": config.context, "pipeline": config.pipeline}


def replica_size(config: ParallelConfig) -> int:
    """Ranks of one replica of the model."""
    return math.prod(replica_sizes(config).values())


def plan_topology(config: ParallelConfig, world_size: int, rank: int = 0, local_rank: int = 0) -> Topology:
    """Places ``rank`` among ``world_size`` ranks; pure arithmetic, no process group.

    Raises:
        InputError: the world does not divide into replicas of the model, or has no such rank.
    """
    replica, ranks = replica_sizes(config), replica_size(config)
    if world_size % ranks:
        raise InputError(
            f"parallel: {_in_words(replica)} needs a multiple of {ranks} processes, there are {world_size}; "
            f"start {nearest_multiples(world_size, ranks)}"
        )
    if not 0 <= rank < world_size:
        raise InputError(
            f"RANK: {rank} is none of {world_size} processes (WORLD_SIZE), which count from 0; torchrun sets both"
        )
    sizes: dict[Axis, int] = {**replica, "data": world_size // ranks}
    return Topology(rank, local_rank, tuple(sizes[axis] for axis in AXES), config.sequence)


def _in_words(sizes: dict[Axis, int]) -> str:
    """As in "tensor 2 x pipeline 2"; context, which only long samples need, is told where there is one."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if axis != "context" or size > 1)


def topology_from_environment(config: ParallelConfig) -> Topology:
    """The topology that torchrun's environment describes; one process where there is none."""
    return plan_topology(
        config,
        world_size=whole_number("WORLD_SIZE", 1, low=1),
        rank=whole_number("RANK", 0),
        local_rank=whole_number("LOCAL_RANK", 0),
    )


def device_of(topology: Topology) -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", topology.local_rank)
    return torch.device("cpu")
