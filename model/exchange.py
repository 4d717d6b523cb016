"""How the input of layers that split features reaches them, and its gradient comes back.

In: this rank's input, later the gradient of the whole input. Out: the whole input, and this rank's part of the sum of
all ranks' gradients. Always: an exchange starts when it is asked for and is waited for when its result is; what the
caller computes in between hides it. All ranks of a group ask in the same order.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Pending = Callable[[], Tensor]
"""Waits for the result of an exchange that has started"""


class InputExchange:
    """Of one rank alone: nothing is exchanged."""

    gathers: bool = False
    """``gather`` makes a larger tensor, which is gathered again in the backward pass rather than kept"""

    def gather(self, x: Tensor) -> Pending:
        """Starts to make ``x``, which is split along its first dimension or not at all, whole."""
        return lambda: x

    def reduce(self, gradient: Tensor) -> Pending:
        """Starts to sum the ranks' gradients of the whole input; may overwrite ``gradient``."""
        return lambda: gradient


class ReplicatedInput(InputExchange):
    """Every rank of ``group`` has the whole input."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def reduce(self, gradient: Tensor) -> Pending:
        """An all-reduce."""
        total = gradient.contiguous()
        return _result(total, dist.all_reduce(total, group=self.group, async_op=True))


class SequenceSplitInput(InputExchange):
    """Every rank of ``group`` has the input of its part of the sequence."""

    gathers = True

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def gather(self, x: Tensor) -> Pending:
        """An all-gather."""
        part, ranks = x.contiguous(), self.group.size()
        whole = torch.empty(ranks * len(part), *part.shape[1:], dtype=part.dtype, device=part.device)
        return _result(whole, gather_flat(whole, part, self.group))

    def reduce(self, gradient: Tensor) -> Pending:
        """A reduce-scatter."""
        whole, ranks = gradient.contiguous(), self.group.size()
        part = torch.empty(len(whole) // ranks, *whole.shape[1:], dtype=whole.dtype, device=whole.device)
        return _result(part, reduce_scatter_flat(part, whole, self.group))


class Entering(torch.autograd.Function):
    """(this rank's input, its exchange) to the whole input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: InputExchange) -> Tensor:
        ctx.exchange = exchange
        whole = exchange.gather(x)()
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.reduce(gradients[0])(), None


def gather_flat(whole: Tensor, part: Tensor, group: Any) -> Any:
    """``all_gather_single``, before torch 2.13 ``all_gather_into_tensor``: ``part`` of each rank, in their order."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(whole, part, group=group, async_op=True)


def reduce_scatter_flat(part: Tensor, whole: Tensor, group: Any) -> Any:
    """``reduce_scatter_single``, before torch 2.13 ``reduce_scatter_tensor``: this rank's part of the sum."""
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return scatter(part, whole, group=group, async_op=True)


def _result(tensor: Tensor, work: Any) -> Pending:
    def wait() -> Tensor:
        work.wait()
        return tensor

    return wait
