"""Where DeepSpeed keeps this rank's fp32 weights and the optimizer's state, and views into both without any gather.

In: DeepSpeed's optimizer and ours inside it. Out: places, holders and, for each parameter, this rank's range of its
weights or of a tensor of state, writable; `publish_weights` brings written weights to the model. Always: the views
together are this rank's part of the training state, whatever the ZeRO stage.
"""

from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state
from torch import nn

from model.parallel import info_of
from pretrain.engines import compat
from pretrain.optimizers.base import Group, OptimizerKind, Place, create_state


@dataclass(frozen=True)
class StateView:
    """A contiguous range of this rank's shard of one parameter, or of a tensor of state of its shape."""

    start: int
    """in the flattened shard"""
    values: torch.Tensor
    """flat fp32 view"""


class TrainingState:
    """The state of one rank under one ZeRO stage."""

    def __init__(
        self,
        zero_stage: int,
        parameters: list[nn.Parameter],
        kind: OptimizerKind,
        optimizer: torch.optim.Optimizer,
        wrapper: Any,
        copy: int,
    ) -> None:
        """``wrapper`` is DeepSpeed's optimizer around ``optimizer``, which ``kind`` has built."""
        self._stage = zero_stage
        self._parameters = parameters
        self._kind = kind
        self._optimizer = optimizer
        self._wrapper = wrapper
        self._copy = copy

    def places(self) -> list[Place]:
        """The parts that this rank updates, in the order of the parameters, for ZeRO 0 to 2.

        ZeRO 3 cuts every parameter by itself, so that no holder has whole matrices.
        """
        found = (self._place(parameter) for parameter in self._parameters)
        return [place for place in found if place is not None]

    def create(self) -> None:
        """Creates the optimizer's state where no step has created it yet, so that ``view`` finds it."""
        for group, holder in self._holders():
            create_state(self._optimizer, group, holder)

    def view(self, parameter: nn.Parameter, state: str | None) -> StateView | None:
        """This rank's range of ``parameter``'s weights, or of its tensor of state ``state``; None where it has none."""
        if self._stage == 3:
            return self._partition(parameter, state)
        place = self._place(parameter)
        if place is None:
            return None
        # Not DeepSpeed's own link to the state: it is made before the second parameter group has any.
        source = place.holder.data if state is None else self._optimizer.state[place.holder][state]
        return StateView(place.start, source.view(-1).narrow(0, place.offset, place.numel))

    def publish_weights(self) -> None:
        """Copies the fp32 weights into the model's parameters, gathering them where they are partitioned."""
        if self._stage == 3:
            compat.publish_stage_3(self._wrapper)
        elif self._stage > 0:
            compat.publish(self._wrapper)

    def _place(self, parameter: nn.Parameter) -> Place | None:
        if self._stage == 0:
            return Place(parameter, parameter, 0, 0, parameter.numel())
        part = compat.partition_range(parameter)
        if part is None:
            return None
        holder = compat.fp32_partitions(self._wrapper)[part.group]
        return Place(parameter, holder, part.offset, part.start, part.numel)

    def _holders(self) -> list[tuple[Group, torch.Tensor]]:
        """The fp32 tensors that the optimizer updates on this rank, with their groups."""
        kind = self._kind
        if self._stage == 3:
            return [(kind.groups[number], flat) for number, flat in compat.fp32_partitions_of_stage_3(self._wrapper)]
        places = self.places()
        group_of = {id(place.holder): kind.group_of(info_of(place.parameter)) for place in places}
        holders = {id(place.holder): place.holder for place in places}
        return [(group_of[key], holder) for key, holder in holders.items()]

    def _partition(self, parameter: nn.Parameter, state: str | None) -> StateView | None:
        """ZeRO 3 cuts every parameter into one piece for each data-parallel rank, the last one padded."""
        local = (
            safe_get_local_fp32_param(parameter) if state is None else safe_get_local_optimizer_state(parameter, state)
        )
        start = local.numel() * self._copy
        numel = min(local.numel(), compat.whole_numel(parameter) - start)
        return StateView(start, local.view(-1)[:numel]) if numel > 0 else None
