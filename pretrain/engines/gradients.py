"""Gradients of parameters that every tensor-parallel rank holds but only partly feeds, and the global norm.

In: parameters with `.info` (model/parallel.py). Out: whole gradients, once per optimizer step; a clipped norm.
Always: each replicated parameter is summed once over the tensor-parallel group and counted once in the norm;
the norm is exact to 1e-7.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from model.parallel import info_of
from pretrain import torch_compat
from pretrain.engines import compat
from pretrain.topology import Topology

VALUES_AT_ONCE = 1 << 18
"""widened to fp64 at the same time: they stay in the cache"""


class PartialGradientSum:
    """Sums partial gradients over the tensor-parallel group: one reduction per parameter and optimizer step.

    A gradient of all but the last micro-batch is kept here in fp32 and zeros go on to DeepSpeed; the last one is
    added to what was kept, summed over the group, and goes on as the whole step's gradient. So every ZeRO stage,
    whether it reduces per micro-batch or per step, sees the same sum. LOG.md compares it with one reduction per
    micro-batch.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup) -> None:
        self._accumulators = [
            _Accumulator(parameter, group) for parameter in parameters if info_of(parameter).partial_gradient
        ]

    def begin_step(self, micro_batches: int) -> None:
        """Expects the gradients of so many micro-batches; forgets those of a step that was not finished."""
        for accumulator in self._accumulators:
            accumulator.begin_step(micro_batches)

    def remove(self) -> None:
        """Takes the sums out again."""
        for accumulator in self._accumulators:
            accumulator.handle.remove()


class _Accumulator:
    """The hook of one parameter: counts micro-batches, keeps their sum, reduces on the last one."""

    def __init__(self, parameter: nn.Parameter, group: dist.ProcessGroup) -> None:
        self.handle = parameter.register_hook(self)
        self._group = group
        self._micro_batches = 1
        self._seen = 0
        self._kept: torch.Tensor | None = None

    def begin_step(self, micro_batches: int) -> None:
        self._micro_batches, self._seen, self._kept = micro_batches, 0, None

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        self._seen += 1
        total = gradient.float() if self._kept is None else self._kept.add_(gradient)
        if self._seen < self._micro_batches:
            self._kept = total.clone() if total is gradient else total
            return torch.zeros_like(gradient)
        self._kept = None
        total = total.clone() if total is gradient else total
        dist.all_reduce(total, group=self._group)
        return total.to(gradient.dtype)


@torch.no_grad()
def square_sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of the squares of all values, fp64.

    On CPUs torch's norm adds the squares of a tensor one after the other in fp32 and loses 4e-3 of 5e7 values; on GPUs
    it adds them in a tree.
    """
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    if tensors[0].device.type != "cpu":
        return torch_compat.norms(list(tensors)).double().square().sum()
    parts = [part for tensor in tensors for part in tensor.flatten().split(VALUES_AT_ONCE)]
    return torch.stack([part.double().square().sum() for part in parts]).sum()


@torch.no_grad()
def clip_by_global_norm(
    parameters: Iterable[nn.Parameter], limit: float, topology: Topology, model_group: dist.ProcessGroup | None
) -> float:
    """Scales gradients so that their global norm is at most ``limit`` (0: no limit); returns the norm before.

    Sharded parameters add up over tensor-parallel ranks, replicated ones count on tensor-parallel rank 0 only, tied
    ones on their first pipeline stage only. ``model_group`` holds all ranks of one data-parallel replica.
    """
    gradients = []
    counted = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradients.append(parameter.grad)
        replica = info_of(parameter).shard_dim is None and topology.tensor_rank != 0
        if not replica and not compat.is_tied_copy(parameter):
            counted.append(parameter.grad)
    device = gradients[0].device if gradients else torch.device("cpu")
    square = square_sum(counted).to(device)
    if model_group is not None:
        dist.all_reduce(square, group=model_group)
    norm = float(square.sqrt())
    if limit > 0 and norm > limit:
        torch_compat.scale_(gradients, limit / (norm + 1e-6))
    return norm
