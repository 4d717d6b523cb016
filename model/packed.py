"""Several linear maps of one input as one matrix product.

In: x, weights [n_i, D], and how x comes to this rank (model/exchange.py). Out: x W_i^T for each. Always: the weights
stay parameters of their own, each with its own gradient; forward, the input's gradient and the weights' gradients are
one product each. Kept for the backward pass is this rank's part of x, which is gathered again there:

    forward     gather x                      y = x W^T
    backward    start to gather x             dx = dy W       meanwhile
                start to sum dx over ranks    dW = dy^T x     meanwhile

Weights that lie side by side in memory, as DeepSpeed's flat buffers put neighbours, are read as they are; others are
copied together for the product. The copy is made again in the backward pass rather than kept. So it is with the
gradients of the results: those that were written side by side are read as they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.deferred import Finish, Keep, keeper_of
from model.exchange import InputExchange
from model.kernels.products import prefers_onednn, product
from model.leaving import ALONE, Itself, Output, leaving_linear

WHOLE = InputExchange()
"""an input of one rank alone"""


def packed_linear(x: Tensor, weights: Sequence[Tensor], exchange: InputExchange = WHOLE) -> tuple[Tensor, ...]:
    """x [..., D] to x W_i^T [..., n_i] of every weight, where ``exchange`` makes x whole.

    The results are views of one tensor: who keeps one of them for long keeps them all, unless it copies its own.
    """
    keep = keeper_of(weights) if x.requires_grad else None
    if keep is not None:  # the pass back ends at x
        weights = [weight.detach() for weight in weights]
    results: tuple[Tensor, ...] = _PackedLinear.apply(exchange, keep, x, *weights)
    return results


def linear(x: Tensor, weight: Tensor, output: Output = ALONE) -> Tensor:
    """x W^T, of one weight, by way of ``output``."""
    if output is ALONE and keeper_of([weight]) is None:
        return packed_linear(x, [weight])[0] if prefers_onednn(x, weight) else F.linear(x, weight)
    return leaving_linear(Itself(), output, [x], weight)


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """The rows of all weights, [sum of n_i, D]: a view where they follow one another in memory."""
    first = weights[0]
    if not torch.compiler.is_compiling() and _side_by_side(weights):
        rows = sum(len(weight) for weight in weights)
        return first.as_strided((rows, first.shape[1]), first.stride(), first.storage_offset())
    return torch.cat(list(weights))


def _side_by_side(weights: Sequence[Tensor]) -> bool:
    storage, end = weights[0].untyped_storage().data_ptr(), weights[0].storage_offset()
    for weight in weights:
        if weight.untyped_storage().data_ptr() != storage or weight.storage_offset() != end:
            return False
        if not weight.is_contiguous():
            return False
        end += weight.numel()
    return True


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The columns of all parts, [..., sum of n_i]: a view where they are neighbours in the rows of one tensor."""
    first = parts[0]
    if not torch.compiler.is_compiling() and _neighbouring_columns(parts):
        columns = sum(part.shape[-1] for part in parts)
        return first.as_strided((*first.shape[:-1], columns), first.stride(), first.storage_offset())
    return torch.cat(list(parts), dim=-1) if len(parts) > 1 else first


def _neighbouring_columns(parts: Sequence[Tensor]) -> bool:
    storage, strides, end = parts[0].untyped_storage().data_ptr(), parts[0].stride(), parts[0].storage_offset()
    for part in parts:
        if part.untyped_storage().data_ptr() != storage or part.storage_offset() != end or part.stride() != strides:
            return False
        end += part.shape[-1]
    return strides[-1] == 1


class _PackedLinear(torch.autograd.Function):
    """(exchange, who takes the product of the weights' gradients, x, weights) to one result for each weight."""

    @staticmethod
    def forward(
        ctx: Any, exchange: InputExchange, keep: Keep | None, x: Tensor, *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.exchange, ctx.keep = exchange, keep
        ctx.save_for_backward(x, *weights)
        return product(exchange.gather(x)(), stacked(weights)).split([len(weight) for weight in weights], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        exchange: InputExchange = ctx.exchange
        gradient = joined(gradients)
        rows = [len(weight) for weight in weights]

        def start() -> Finish:
            whole_x = exchange.gather(x)
            return lambda: (gradient.flatten(0, -2).t() @ whole_x().flatten(0, -2)).split(rows)

        if ctx.keep is not None:
            ctx.keep(start)
            return None, None, exchange.reduce(product(gradient, stacked(weights).t()))(), *(None for _ in weights)
        finish = start()
        of_x = exchange.reduce(product(gradient, stacked(weights).t()))
        of_weights = finish()
        return None, None, of_x(), *of_weights
