"""Who exchanges between the replicas: our buckets under ZeRO 1 and 2, DeepSpeed's own code else.

In: a step's micro-batches, announced. Out: the step's loss and gradient norm over all ranks, and how long layers
waited for weights. Always: loss and norm are equal on every rank, and known before the update.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.engines import compat
from pretrain.engines.gradients import PartialGradientSum, clip_by_global_norm
from pretrain.engines.zero.optimizer import BucketedZero
from pretrain.topology import Topology


class ReplicaExchange(ABC):
    """What an engine asks of it."""

    @abstractmethod
    def begin_step(self, micro_batches: int) -> None:
        """Expects the gradients of so many micro-batches."""

    @abstractmethod
    def loss_and_norm(self) -> tuple[float, float]:
        """Of the step whose gradients are complete, over all ranks; a collective call."""

    def settle(self) -> None:
        """Waits until the weights of the last step have returned."""
        return

    def take_waits(self) -> float:
        """Seconds since the last call for which forward passes in training waited for weights."""
        return 0.0


class BucketExchange(ReplicaExchange):
    """Ours (pretrain/engines/zero): gradients leave during the backward pass, weights return during the next forward.

    Args:
        loss_here: the step's mean loss on this rank's tokens, equal on its tensor-parallel ranks; None: not known on
            this pipeline stage.
    """

    def __init__(
        self, optimizer: BucketedZero, topology: Topology, device: torch.device, loss_here: Callable[[], Tensor | None]
    ) -> None:
        self._optimizer = optimizer
        self._topology = topology
        self._device = device
        self._loss_here = loss_here

    def begin_step(self, micro_batches: int) -> None:
        self._optimizer.gradients.begin_step(micro_batches)

    def loss_and_norm(self) -> tuple[float, float]:
        """One exchange, and the one time that a step waits for the device."""
        loss = self._loss_here()
        here = torch.zeros(2, dtype=torch.float64, device=self._device)
        if loss is not None and self._topology.tensor_rank == 0:
            here[0] = loss / self._topology.copies
        here[1] = self._optimizer.square_sum()
        if self._topology.world_size > 1:
            dist.all_reduce(here)
        loss_sum, square = here.tolist()
        norm = math.sqrt(square) if square >= 0 else math.nan
        self._optimizer.set_norm(norm)
        return loss_sum, norm

    def settle(self) -> None:
        self._optimizer.weights.settle()

    def take_waits(self) -> float:
        return self._optimizer.weights.waits.take()


@dataclass
class DeepSpeedExchange(ReplicaExchange):
    """DeepSpeed's, with sums over the tensor-parallel group that it does not know of."""

    wrapper: Any
    """DeepSpeed's optimizer"""
    parameters: Sequence[nn.Parameter]
    topology: Topology
    clipping: float | None
    """largest norm of the gradient (0: any) where DeepSpeed does not clip; None: it does, and tells the norm"""
    partial_gradients: PartialGradientSum | None
    global_loss: Callable[[], float]
    model_group: Callable[[], dist.ProcessGroup | None]
    """all ranks that hold a part of one replica of the model"""

    def begin_step(self, micro_batches: int) -> None:
        if self.partial_gradients is not None:
            self.partial_gradients.begin_step(micro_batches)

    def loss_and_norm(self) -> tuple[float, float]:
        loss = self.global_loss()
        if self.clipping is None:
            return loss, compat.gradient_norm(self.wrapper)
        return loss, clip_by_global_norm(self.parameters, self.clipping, self.topology, self.model_group())
