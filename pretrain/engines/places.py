"""Where DeepSpeed keeps this rank's fp32 weights: whole parameters, or parts of flat partitions.

In: the parameters of the model and DeepSpeed's optimizer. Out: places. Always: for ZeRO 0 to 2; ZeRO-3 cuts every
parameter by itself (pretrain/checkpoint/state.py).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pretrain.optimizers.base import Place


def places(parameters: Iterable[nn.Parameter], zero_stage: int, optimizer: Any) -> list[Place]:
    """The parts that this rank updates, in the order of ``parameters``; ``optimizer`` is DeepSpeed's."""
    if zero_stage == 0:
        return [Place(parameter, parameter, 0, 0, parameter.numel()) for parameter in parameters]
    found = (place_in_partition(parameter, flat_partitions(optimizer)) for parameter in parameters)
    return [place for place in found if place is not None]


def place_in_partition(parameter: nn.Parameter, partitions: list[torch.Tensor]) -> Place | None:
    """This rank's part of ``parameter`` under ZeRO 1 and 2; None where it has none."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    address = mapping.hp_fragment_address
    holder = partitions[mapping.param_group_index]
    return Place(parameter, holder, address.start, mapping.lp_fragment_address.start, address.numel)


def flat_partitions(optimizer: Any) -> list[torch.Tensor]:
    """This rank's fp32 partition of every parameter group, for ZeRO 1 and 2."""
    if hasattr(optimizer, "fp32_groups_flat_partition"):  # BF16_Optimizer
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)
