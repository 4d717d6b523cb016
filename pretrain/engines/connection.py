"""The process groups of a topology: torch.distributed's, DeepSpeed's and megatron-core's.

In: a Topology. Out: groups. Always: megatron-core's order "tp-cp-ep-dp-pp" is the topology's own.
"""

import contextlib
import io
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from model.megatron_compat import parallel_state
from pretrain.engines.compat import compile_nothing
from pretrain.topology import AXES, Topology, device_of


def connect(topology: Topology, timeout_seconds: float = 1800.0) -> None:
    """Starts the process groups of ``topology``: torch.distributed, DeepSpeed's and megatron-core's."""
    compile_nothing()
    device = device_of(topology)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if topology.world_size == 1:  # a single process needs no port that another run may hold
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(_backend(device), store=store, rank=0, world_size=1)
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
        context_parallel_size=topology.context_size,
        order="tp-cp-ep-dp-pp",
        create_gloo_process_groups=False,
    )


def disconnect() -> None:
    """Ends the process groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def tensor_group() -> dist.ProcessGroup:
    """The tensor-parallel group of this rank."""
    return parallel_state.get_tensor_model_parallel_group()


def context_group() -> dist.ProcessGroup:
    """The ranks that hold the other parts of this rank's samples."""
    return parallel_state.get_context_parallel_group()


def copies_group() -> dist.ProcessGroup:
    """The ranks with the same weights as this one: along context and data."""
    return parallel_state.get_data_parallel_group(with_context_parallel=True)


@dataclass(frozen=True)
class PartitionGroups:
    """The ranks with the same weights as this one, by what they keep of weights and state."""

    sharing: dist.ProcessGroup
    """those among which they are cut; this rank alone where there is no other"""
    alike: dist.ProcessGroup | None
    """those that keep the same part as this rank; None: no other does"""


def partition_groups(topology: Topology, ranks: int | None) -> PartitionGroups:
    """Groups of ``ranks`` neighbours with the same weights, or of all; a collective call of the whole run."""
    if ranks is None or ranks == topology.copies:
        return PartitionGroups(copies_group(), None)
    everyone = topology.firsts(*AXES)
    sharing = sorted({one.sharing(ranks) for one in everyone})
    alike = sorted({one.alike(ranks) for one in everyone})
    own_sharing, _ = dist.new_subgroups_by_enumeration([list(group) for group in sharing])
    own_alike, _ = dist.new_subgroups_by_enumeration([list(group) for group in alike])
    return PartitionGroups(own_sharing, own_alike)


def own_tensor_group(topology: Topology) -> dist.ProcessGroup:
    """The tensor-parallel ranks in a group of its own; a collective call of the whole run.

    For exchanges that start when something else is done, and so not in one order with those of the layers.
    """
    group, _ = dist.new_subgroups_by_enumeration(topology.lines("tensor"))
    return group


class ModelParallelUnit:
    """What DeepSpeed asks of `mpu`; megatron-core no longer answers under the name `model_parallel`.

    Data parallel is for DeepSpeed what holds the same weights: the ranks along context, too.
    """

    def __init__(self) -> None:
        for what in ("rank", "world_size", "group"):
            tensor: Any = getattr(parallel_state, f"get_tensor_model_parallel_{what}")
            setattr(self, f"get_model_parallel_{what}", tensor)
            setattr(self, f"get_tensor_model_parallel_{what}", tensor)
            copies = partial(getattr(parallel_state, f"get_data_parallel_{what}"), with_context_parallel=True)
            setattr(self, f"get_data_parallel_{what}", copies)
            pipeline: Any = getattr(parallel_state, f"get_pipeline_model_parallel_{what}")
            setattr(self, f"get_pipeline_model_parallel_{what}", pipeline)


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"
