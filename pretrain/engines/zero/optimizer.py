"""DeepSpeed's optimizer for partitioned state, with our exchange of gradients and weights around its update.

In: an optimizer whose parameter groups are buckets, and how their exchange is set. Out: what DeepSpeed's engines drive.
Always: DeepSpeed owns flat buffers, partitions and the map from parameters to them; gradients come from
gradients.py, weights go back by weights.py, each bucket's as soon as it is updated; the norm is judged before the first
update, and a refused step changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel import info_of
from pretrain import torch_compat
from pretrain.engines import compat
from pretrain.engines.gradients import square_sum
from pretrain.engines.zero.beside import Beside
from pretrain.engines.zero.flat import FlatBucket
from pretrain.engines.zero.gradients import GradientExchange
from pretrain.engines.zero.weights import WeightReturn
from pretrain.optimizers.gate import Gate


@dataclass(frozen=True)
class ExchangeSettings:
    """How the ranks exchange gradients and weights."""

    keeps_whole_sums: bool
    """ZeRO 1: gradients are summed over the micro-batches before they leave"""
    travels: torch.dtype
    """type in which gradients are sent"""
    overlap: bool
    partition_group: dist.ProcessGroup
    """the ranks among which state is partitioned"""
    replica_group: dist.ProcessGroup | None
    """the ranks that keep the same partition; None: this one alone"""
    replicas: int
    """data-parallel ranks: a gradient is the mean over them"""
    tensor_rank: int
    tensor_group: dist.ProcessGroup | None
    """the tensor-parallel ranks, in a group that nothing else uses; None: this one alone"""
    clipping: float
    """largest norm of the gradient; 0: any"""


class BucketedZero(compat.PartitionedOptimizer):
    """ZeRO 1 and 2.

    Args:
        inner: the optimizer; one parameter group for each bucket, in the order of the forward pass.
        names: of the parameters, for DeepSpeed.
        gate: asked before the update.
        tied: weights that another pipeline stage has, too, with the group of both.
    """

    def __init__(
        self,
        inner: torch.optim.Optimizer,
        names: Mapping[nn.Parameter, str],
        settings: ExchangeSettings,
        gate: Gate,
        tied: Iterable[tuple[nn.Parameter, dist.ProcessGroup]],
    ) -> None:
        super().__init__(inner, names, settings.partition_group, settings.clipping, settings.keeps_whole_sums)
        self._settings = settings
        self._gate = gate
        self._flat = self.flat_buckets()
        group = settings.partition_group if settings.partition_group.size() > 1 else None
        self.gradients = GradientExchange(
            self._flat,
            group,
            settings.travels,
            self._further(tied),
            overlap=settings.overlap,
            beside=Beside() if self._flat[0].weights.is_cuda else None,
        )
        self.weights = WeightReturn(self._flat, group, overlap=settings.overlap)
        counted = (_own_part(bucket, p) for bucket in self._flat for p in bucket.parameters if self._counts(p))
        self._counted = [part for part in counted if part is not None]

    def square_sum(self) -> Tensor:
        """This rank's share of the squared norm of the mean gradient, fp64; over all ranks of the run they add up."""
        copies = self._settings.replicas // self._settings.partition_group.size()
        return square_sum(self._counted) / (self._settings.replicas**2 * copies)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Judges the gradient, and updates the weights if it is let through."""
        self.gradients.finish()
        if not self._gate.is_open():
            return
        self._scale_gradients()
        self.weights.start(self._update)

    def update_lp_params(self) -> None:
        """Brings the fp32 partitions to the model's weights, and waits until they are there."""
        self.weights.start()
        self.weights.settle()

    def set_norm(self, norm: float) -> None:
        """Tells the norm of the mean gradient of this step, before the gate opens."""
        self._global_grad_norm = norm

    def _update(self, index: int) -> None:
        """Updates the partition of one bucket, whose parameter group is the only one that the optimizer sees."""
        groups, bucket = self.optimizer.param_groups, self._flat[index]
        bucket.master.grad = bucket.own_sums
        self.optimizer.param_groups = [groups[index]]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups

    def _scale_gradients(self) -> None:
        """From sums to means, clipped."""
        norm, limit = self._global_grad_norm, self._settings.clipping
        factor = 1 / self._settings.replicas
        if 0 < limit < norm:
            factor *= limit / (norm + 1e-6)
        if factor != 1:
            torch_compat.scale_([bucket.own_sums for bucket in self._flat], factor)

    def _counts(self, parameter: nn.Parameter) -> bool:
        """Whether this rank counts its part of the parameter in the norm, as one of those that hold it alike."""
        replica = info_of(parameter).shard_dim is None and self._settings.tensor_rank != 0
        return not replica and not compat.is_tied_copy(parameter)

    def _further(self, tied: Iterable[tuple[nn.Parameter, dist.ProcessGroup]]) -> dict[int, list[dist.ProcessGroup]]:
        """By the index of a bucket, the groups over which this rank's partition is summed at last."""
        ends = {id(weight): group for weight, group in tied}
        further = {}
        for index, bucket in enumerate(self._flat):
            partial = info_of(bucket.parameters[0]).partial_gradient
            groups = [
                self._settings.replica_group,
                self._settings.tensor_group if partial else None,
                *(ends.get(id(parameter)) for parameter in bucket.parameters),
            ]
            further[index] = [group for group in groups if group is not None]
        return further


def _own_part(bucket: FlatBucket, parameter: nn.Parameter) -> Tensor | None:
    """This rank's part of the parameter's summed gradient, flat; None where other ranks have all of it."""
    part = compat.partition_range(parameter)
    return None if part is None else bucket.own_sums.narrow(0, part.offset, part.numel)


def split_into_buckets(optimizer: torch.optim.Optimizer, buckets: Iterable[Sequence[nn.Parameter]]) -> None:
    """Gives every bucket a parameter group of its own, with the settings of the group that it was in."""
    settings = {
        id(parameter): {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    optimizer.param_groups[:] = [{"params": list(bucket), **settings[id(bucket[0])]} for bucket in buckets]
