"""What a rank must save and load: views into the optimizer's fp32 weights and moments, without any gather.

In: an Engine. Out: LocalFragments, whose values are writable views; after loading, `publish` brings the
weights from the optimizer to the model.
Always: the views together are this rank's part of the training state, whatever the ZeRO stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from model.parallel import info_of
from pretrain.checkpoint.layout import WEIGHT, TensorLayout
from pretrain.engines.engine import Engine
from pretrain.engines.places import flat_partitions, place_in_partition
from pretrain.optimizers.base import Group, create_state


@dataclass(frozen=True)
class LocalFragment:
    """A contiguous range of this rank's shard of one parameter or moment."""

    name: str
    kind: str
    """"weight", or the name of a moment"""
    layout: TensorLayout
    tensor_rank: int
    """which shard; 0 for a replicated parameter"""
    start: int
    """where ``values`` begin in the flattened shard"""
    values: torch.Tensor
    """flat fp32 view into the training state"""
    written: slice
    """the part of ``values`` that this rank, and no other, writes"""


def local_fragments(engine: Engine) -> Iterator[LocalFragment]:
    """Every range that this rank holds; creates the moments where no step has created them yet."""
    for group, holder in _holders(engine):
        create_state(engine.optimizer, group, holder)
    for parameter in engine.parameters:
        moments = engine.optimizer_kind.group_of(info_of(parameter)).moments
        for kind in (WEIGHT, *(moment.name for moment in moments)):
            view = _view(engine, parameter, kind)
            if view is not None:
                yield _describe(engine, parameter, kind, *view)


def publish(engine: Engine) -> None:
    """Copies the optimizer's fp32 weights into the model's parameters, gathering them where they are partitioned."""
    optimizer = engine.deepspeed.optimizer
    if engine.zero_stage == 0:
        return
    if engine.zero_stage == 3:
        _publish_stage_3(optimizer)
        return
    if hasattr(optimizer, "update_lp_params"):  # BF16_Optimizer
        optimizer.update_lp_params()
        return
    _publish_stage_1_and_2(optimizer)


def _publish_stage_3(optimizer: Any) -> None:
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:  # small ones, which stay whole between steps
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _publish_stage_1_and_2(optimizer: Any) -> None:
    import torch.distributed as dist
    from deepspeed.runtime.utils import all_gather_dp_groups

    for index, partitions in enumerate(optimizer.parallel_partitioned_bit16_groups):
        own = dist.get_rank(group=optimizer.real_dp_process_group[index])
        partitions[own].data.copy_(optimizer.single_partition_of_fp32_groups[index].data)
    all_gather_dp_groups(
        groups_flat=optimizer.bit16_groups_flat,
        partitioned_param_groups=optimizer.parallel_partitioned_bit16_groups,
        dp_process_group=optimizer.real_dp_process_group,
        start_alignment_factor=optimizer.nccl_start_alignment_factor,
        allgather_bucket_size=optimizer.allgather_bucket_size,
    )
    for index in range(len(optimizer.bit16_groups)):
        optimizer._update_model_bit16_weights(index)


def _view(engine: Engine, parameter: nn.Parameter, kind: str) -> tuple[int, torch.Tensor] | None:
    """(start in the flattened shard, view) of this rank's part of ``parameter``; None where it has none."""
    state_key = None if kind == WEIGHT else kind
    if engine.zero_stage == 0:
        tensor = parameter.data if state_key is None else engine.optimizer.state[parameter][state_key]
        return 0, tensor.view(-1)
    if engine.zero_stage == 3:
        local = parameter._z3_optimizer.get_local_fp32_param(parameter, state_key)  # type: ignore[attr-defined]
        start = local.numel() * engine.topology.data_rank
        numel = min(local.numel(), parameter.ds_numel - start)  # type: ignore[attr-defined]
        return (start, local.view(-1)[:numel]) if numel > 0 else None
    place = place_in_partition(parameter, flat_partitions(engine.deepspeed.optimizer))
    if place is None:
        return None
    source = place.holder if state_key is None else engine.optimizer.state[place.holder][state_key]
    return place.start, source.narrow(0, place.offset, place.numel)


def _holders(engine: Engine) -> list[tuple[Group, torch.Tensor]]:
    """The fp32 tensors that the optimizer updates on this rank, with their groups."""
    optimizer, kind = engine.deepspeed.optimizer, engine.optimizer_kind
    if engine.zero_stage == 0:
        return [(kind.group_of(info_of(parameter)), parameter) for parameter in engine.parameters]
    if engine.zero_stage == 3:
        flat = optimizer.fp32_partitioned_groups_flat
        return [(kind.groups[optimizer.sub_group_to_group_id[number]], flat[number]) for number in range(len(flat))]
    return list(zip(kind.groups, flat_partitions(optimizer), strict=True))


def _describe(engine: Engine, parameter: nn.Parameter, kind: str, start: int, view: torch.Tensor) -> LocalFragment:
    info = parameter.info  # type: ignore[attr-defined]
    topology = engine.topology
    layout = TensorLayout(tuple(info.full_shape), info.shard_dim, topology.tensor_size)
    replica = info.shard_dim is None and topology.tensor_rank != 0
    tied_copy = getattr(parameter, "ds_pipe_replicated", False)
    if replica or tied_copy:
        written = slice(0, 0)
    elif engine.zero_stage == 0:  # every data-parallel rank holds it all and writes its share
        shares = [view.numel() * rank // topology.data_size for rank in (topology.data_rank, topology.data_rank + 1)]
        written = slice(*shares)
    else:
        written = slice(0, view.numel())
    shard = 0 if info.shard_dim is None else topology.tensor_rank
    return LocalFragment(info.name, kind, layout, shard, start, view, written)
