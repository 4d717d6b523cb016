"""Which rank does what: the frozen map rank -> (pipeline stage, data-parallel rank, tensor-parallel rank).

In: the world size and the `parallel` section. Out: a Topology, and once connected its process groups.
Always: tensor-parallel ranks are neighbours, then data-parallel ones, pipeline stages are farthest apart; DeepSpeed's
PipeModelDataParallelTopology and megatron-core's order "tp-cp-ep-dp-pp" are this same map.
"""

import contextlib
import importlib
import io
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

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


def connect(topology: Topology, timeout_seconds: float = 1800.0) -> None:
    """Starts the process groups of ``topology``: torch.distributed, DeepSpeed's and megatron-core's."""
    import deepspeed
    from megatron.core import parallel_state

    compile_nothing()
    device = device_of(topology)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if topology.world_size == 1:  # a single process needs no port that another run may hold
        dist.init_process_group(_backend(device), store=HashStore(), rank=0, world_size=1)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of the operations that it builds
        deepspeed.init_distributed(
            dist_backend=_backend(device),
            timeout=timedelta(seconds=timeout_seconds),
            verbose=False,
            auto_mpi_discovery=False,
        )
    parallel_state.initialize_model_parallel(
        topology.tensor_size,
        topology.pipeline_size,
        order="tp-cp-ep-dp-pp",
        create_gloo_process_groups=False,
    )


def compile_nothing() -> None:
    """Keeps DeepSpeed from compiling an all-reduce that only inference uses.

    A start that is killed while it compiles leaves a lock file in the user's home, on which every later start waits
    for ever.
    """
    # Not as an attribute: `deepspeed.comm.torch` is torch itself, which the package's __init__ imports over the module.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def disconnect() -> None:
    """Ends the process groups."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def tensor_group() -> dist.ProcessGroup:
    """The tensor-parallel group of this rank."""
    from megatron.core import parallel_state

    return parallel_state.get_tensor_model_parallel_group()


def data_group() -> dist.ProcessGroup:
    """The data-parallel group of this rank."""
    from megatron.core import parallel_state

    return parallel_state.get_data_parallel_group()


class ModelParallelUnit:
    """What DeepSpeed asks of `mpu`; megatron-core no longer answers under the name `model_parallel`."""

    def __init__(self) -> None:
        from megatron.core import parallel_state

        for what in ("rank", "world_size", "group"):
            tensor: Any = getattr(parallel_state, f"get_tensor_model_parallel_{what}")
            setattr(self, f"get_model_parallel_{what}", tensor)
            setattr(self, f"get_tensor_model_parallel_{what}", tensor)
            setattr(self, f"get_data_parallel_{what}", getattr(parallel_state, f"get_data_parallel_{what}"))
            pipeline: Any = getattr(parallel_state, f"get_pipeline_model_parallel_{what}")
            setattr(self, f"get_pipeline_model_parallel_{what}", pipeline)


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
