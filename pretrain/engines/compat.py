"""Every private or undocumented name of DeepSpeed that the engines rely on, one function for each.

In: DeepSpeed's engine, its optimizer or a parameter that it holds. Out: what stands behind the name. Always: these
names stand in no other file, and each has one test in tests/pretrain/engines/test_compat.py: an upgrade that takes
names away fails with the list of them.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import deepspeed.utils
import torch
import torch.distributed as dist
from deepspeed.pipe import LayerSpec, PipelineModule
from torch import nn


def compile_nothing() -> None:
    """``deepspeed.comm.torch.build_shm_op``: keeps DeepSpeed from compiling an all-reduce that only inference uses.

    A start that is killed while it compiles leaves a lock file in the user's home, on which every later start waits
    for ever.
    """
    # Not as an attribute: `deepspeed.comm.torch` is torch itself, which the package's __init__ imports over the module.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def logger() -> logging.Logger:
    """``deepspeed.utils.logger``, through which all of DeepSpeed reports."""
    found: logging.Logger = deepspeed.utils.logger
    return found


class CutPipelineModule(PipelineModule):
    """``PipelineModule._partition_layers``, ``_set_bounds`` and ``forward_funcs``: cut where its maker says.

    Args:
        parts: the first layer of each stage, and the number of layers.
    """

    def __init__(self, layers: list[LayerSpec], parts: Sequence[int], *, topology: Any) -> None:
        self._parts = list(parts)
        super().__init__(layers, topology=topology)

    def _partition_layers(self, method: str = "uniform") -> None:
        self.parts = self._parts
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])

    def take_last(self) -> Callable[..., Any]:
        """This stage's last layer as a function; the stage still owns it, and its forward pass leaves it out."""
        last: Callable[..., Any] = self.forward_funcs.pop()
        return last


def gradient_norm(optimizer: Any) -> float:
    """``_global_grad_norm`` of a ZeRO optimizer: known before the inner optimizer steps, unlike the engine's."""
    return float(optimizer._global_grad_norm)


def step_loss(pipeline: Any) -> float:
    """``PipelineEngine._aggregate_total_loss``: the step's loss so far, equal on every rank; a collective call."""
    return float(pipeline._aggregate_total_loss())


def replica_group(pipeline: Any) -> dist.ProcessGroup:
    """``PipelineEngine.grid``: all ranks that hold a part of one replica of the model."""
    group: dist.ProcessGroup = pipeline.grid.get_model_parallel_group()
    return group


def is_tied_copy(parameter: nn.Parameter) -> bool:
    """``ds_pipe_replicated``: whether an earlier pipeline stage has this tied parameter, too."""
    return getattr(parameter, "ds_pipe_replicated", False)


def whole_numel(parameter: nn.Parameter) -> int:
    """``ds_numel``: elements of a parameter that ZeRO 3 has partitioned."""
    count: int = parameter.ds_numel  # type: ignore[attr-defined]
    return count


@dataclass(frozen=True)
class PartitionRange:
    """Where this rank's part of a parameter lies in its partition, for ZeRO 1 and 2."""

    group: int
    """index of the parameter group"""
    start: int
    """in the flattened parameter"""
    offset: int
    """in this rank's flat partition of the group"""
    numel: int


def partition_range(parameter: nn.Parameter) -> PartitionRange | None:
    """``_hp_mapping`` of a parameter under ZeRO 1 or 2; None where this rank holds no part of it."""
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    here = mapping.hp_fragment_address
    return PartitionRange(mapping.param_group_index, mapping.lp_fragment_address.start, here.start, here.numel)


def fp32_partitions(optimizer: Any) -> list[torch.Tensor]:
    """``fp32_groups_flat_partition`` (bf16) or ``single_partition_of_fp32_groups``, by parameter group: ZeRO 1, 2."""
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)


def fp32_partitions_of_stage_3(optimizer: Any) -> list[tuple[int, torch.Tensor]]:
    """``fp32_partitioned_groups_flat`` and ``sub_group_to_group_id``: partitions, each with its group's index."""
    flat = optimizer.fp32_partitioned_groups_flat
    return [(optimizer.sub_group_to_group_id[number], flat[number]) for number in range(len(flat))]


def publish(optimizer: Any) -> None:
    """``update_lp_params``: copies fp32 weights into the model's, gathered over the data group; ZeRO 1 and 2."""
    optimizer.update_lp_params()


def publish_stage_3(optimizer: Any) -> None:
    """``_reassign_or_swap_out_partitioned_parameters`` and what goes with it: fp32 weights into the model's partitions.

    Small parameters, ``persistent_parameters``, stay whole between steps and are gathered again.
    """
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
