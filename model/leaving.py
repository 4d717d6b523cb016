"""Linear maps whose output is a sum over ranks, and how it leaves them.

In: the inputs of this rank's features, a weight [D, F of this rank]. Out: the sum over ranks of hidden(inputs) W^T, or
this rank's part of its sequence. Always: under sequence parallelism the output leaves in pieces: while one is summed
and scattered, the next is computed. A piece has some rows of every rank's part of the sequence, so that each rank
receives a part of each.

    forward     y_1 = h_1 W^T    y_2 = h_2 W^T    y_3 = h_3 W^T
                                 y_1 travels      y_2 travels      y_3 travels
    backward    gather dy        dh = dy W        dW = dy^T h

What the backward pass keeps are the inputs: the hidden values are made again from them.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.deferred import Finish, Keep, keeper_of
from model.exchange import gather_flat, reduce_scatter_flat
from model.kernels.products import product


class Output:
    """Of one rank alone: nothing is exchanged."""

    pieces: int = 1
    """in which it leaves"""

    def leave(self, hidden: "Hidden", inputs: Sequence[Tensor], weight: Tensor) -> Tensor:
        """Of hidden(inputs) W^T, inputs [T, B, ...], what belongs to this rank."""
        return product(hidden.of(*inputs), weight)

    def gradient(self, part: Tensor) -> Tensor:
        """The gradient of the product, from that of what ``leave`` has returned."""
        return part


class SequenceSplitOutput(Output):
    """Each rank of ``group`` receives its part of the sequence, [T/size, B, D].

    Args:
        pieces: in which it leaves, or fewer where there are fewer rows.
    """

    def __init__(self, group: dist.ProcessGroup, pieces: int) -> None:
        self.group = group
        self.pieces = pieces

    def leave(self, hidden: "Hidden", inputs: Sequence[Tensor], weight: Tensor) -> Tensor:
        T, *within = inputs[0].shape[:-1]
        ranks = self.group.size()
        by_rank = [x.flatten(0, -2).unflatten(0, (ranks, -1)) for x in inputs]
        turned = weight.t().expand(ranks, -1, -1)  # so products take strided rows as they are
        under_way: list[tuple[Any, Tensor, Tensor]] = []
        for first, end in _bounds(T // ranks, self.pieces):
            rows = slice(first * math.prod(within), end * math.prod(within))
            outgoing = torch.bmm(hidden.of(*(x[:, rows] for x in by_rank)), turned)
            part = outgoing.new_empty(outgoing.shape[1:])
            under_way.append((reduce_scatter_flat(part, outgoing.flatten(0, 1), self.group), part, outgoing))
        for work, *_ in under_way:
            work.wait()
        return torch.cat([part for _, part, _ in under_way]).unflatten(0, (T // ranks, *within))

    def gradient(self, part: Tensor) -> Tensor:
        whole = part.new_empty(self.group.size() * len(part), *part.shape[1:])
        gather_flat(whole, part.contiguous(), self.group).wait()
        return whole


class Hidden(ABC):
    """What the map is applied to, of the inputs."""

    @abstractmethod
    def of(self, *inputs: Tensor) -> Tensor:
        """The hidden values, in rows as the inputs are."""

    @abstractmethod
    def again(self, *inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        """The same, and what makes the inputs' gradients of theirs, which may be overwritten."""


class Itself(Hidden):
    """The one input."""

    def of(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def again(self, *inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        return inputs[0], lambda gradient: (gradient,)


ALONE = Output()


def leaving_linear(hidden: Hidden, output: Output, inputs: Sequence[Tensor], weight: Tensor) -> Tensor:
    """hidden(inputs) W^T by way of ``output``; keeps the inputs."""
    keep = keeper_of([weight]) if inputs[0].requires_grad else None
    weight = weight if keep is None else weight.detach()  # then the pass back ends at the inputs
    handed: list[Tensor] = []
    begun = _Inputs.apply(handed, hidden, keep, weight, *inputs)
    result: Tensor = _Leaving.apply(handed, hidden, output, begun, weight.detach(), [x.detach() for x in inputs])
    return result


class _Inputs(torch.autograd.Function):
    """(gradient of the product once there, hidden, who takes the weight's product, weight, inputs) to a mark.

    It stands before the product, for a recomputed block ends where its last tensor is kept: it shall neither compute
    nor send once more what nobody reads.
    """

    @staticmethod
    def forward(
        ctx: Any, handed: list[Tensor], hidden: Hidden, keep: Keep | None, weight: Tensor, *inputs: Tensor
    ) -> Tensor:
        ctx.handed, ctx.hidden, ctx.keep = handed, hidden, keep
        ctx.save_for_backward(weight, *inputs)
        return weight.new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        gradient, of_weight = ctx.handed.pop(), None
        values, of_inputs = ctx.hidden.again(*inputs)
        finish = _weight_gradient(gradient, values)
        if ctx.keep is None:
            (of_weight,) = finish()
        else:
            ctx.keep(lambda: finish)
        return None, None, None, of_weight, *of_inputs(product(gradient, weight.t()))


class _Leaving(torch.autograd.Function):
    """(where the product's gradient goes, hidden, output, the mark, weight, inputs) to this rank's result."""

    @staticmethod
    def forward(
        ctx: Any,
        handed: list[Tensor],
        hidden: Hidden,
        output: Output,
        begun: Tensor,
        weight: Tensor,
        inputs: Sequence[Tensor],
    ) -> Tensor:
        ctx.handed, ctx.output = handed, output
        return output.leave(hidden, inputs, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.handed.append(ctx.output.gradient(gradients[0]))
        return None, None, None, gradients[0].new_zeros(()), None, None


def _weight_gradient(gradient: Tensor, x: Tensor) -> Finish:
    """Computes that of x W^T."""
    return lambda: (gradient.flatten(0, -2).t() @ x.flatten(0, -2),)


def _bounds(rows: int, pieces: int) -> list[tuple[int, int]]:
    """Where each of so many pieces begins and ends, none of them empty."""
    pieces = max(1, min(pieces, rows))
    edges = [rows * number // pieces for number in range(pieces + 1)]
    return list(itertools.pairwise(edges))
