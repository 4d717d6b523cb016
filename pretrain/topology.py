"""Which rank does what: the frozen map rank -> (pipeline stage, data-parallel rank, tensor-parallel rank).

In: the world size and the `parallel` section. Out: a Topology; pretrain/engines/connection.py makes its process groups.
Always: tensor-parallel ranks are neighbours, then data-parallel ones, pipeline stages are farthest apart; DeepSpeed's
PipeModelDataParallelTopology and megatron-core's order "tp-cp-ep-dp-pp" are this same map.
"""

import os
from dataclasses import dataclass

import torch

from common.errors import InputError
from model.checks import nearest_multiples
from pretrain.config import ParallelConfig


@dataclass(frozen=True)
class Topology:
    """One rank's place among all ranks."""

    world_size: int
    rank: int
    local_rank: int
    tensor_size: int
    pipeline_size: int
    sequence_parallel: bool

    @property
    def data_size(self) -> int:
        """Data-parallel size."""
        return self.world_size // (self.tensor_size * self.pipeline_size)

    @property
    def tensor_rank(self) -> int:
        """Place in the tensor-parallel group."""
        return self.rank % self.tensor_size

    @property
    def data_rank(self) -> int:
        """Place in the data-parallel group."""
        return self.rank // self.tensor_size % self.data_size

    @property
    def stage(self) -> int:
        """Pipeline stage, counted from 0."""
        return self.rank // (self.tensor_size * self.data_size)

    @property
    def is_main(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0

    def describe(self) -> str:
        """The topology in words, as in "tensor 2 x pipeline 2 x data 2"."""
        sequence = " with sequence parallelism" if self.sequence_parallel else ""
        return f"tensor {self.tensor_size} x pipeline {self.pipeline_size} x data {self.data_size}{sequence}"


def plan_topology(config: ParallelConfig, world_size: int, rank: int = 0, local_rank: int = 0) -> Topology:
    """Places ``rank`` among ``world_size`` ranks; pure arithmetic, no process group.

    Raises:
        InputError: the world does not divide into tensor x pipeline groups.
    """
    model_size = config.tensor * config.pipeline
    if world_size % model_size:
        raise InputError(
            f"parallel: tensor {config.tensor} x pipeline {config.pipeline} needs a multiple of {model_size} "
            f"processes, there are {world_size}; start {nearest_multiples(world_size, model_size)}"
        )
    return Topology(world_size, rank, local_rank, config.tensor, config.pipeline, config.sequence)


def topology_from_environment(config: ParallelConfig) -> Topology:
    """The topology that torchrun's environment describes; one process where there is none."""
    return plan_topology(
        config,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def device_of(topology: Topology) -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", topology.local_rank)
    return torch.device("cpu")
