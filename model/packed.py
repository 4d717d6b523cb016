"""Several linear maps of one input as one matrix product.

In: x, weights [n_i, D], and how x comes to this rank (model/exchange.py). Out: x W_i^T for each. Always: the weights
stay parameters of their own, each with its own gradient; forward, the input's gradient and the weights' gradients are
one product each. Kept for the backward pass is this rank's part of x, which is gathered again there:

    forward     gather x                      y = x W^T
    backward    start to gather x             dx = dy W       meanwhile
                start to sum dx over ranks    dW = dy^T x     meanwhile

Weights that lie side by side in memory, as DeepSpeed's flat buffers put neighbours, are read as they are; others are
copied together for the product. The copy is made again in the backward pass rather than kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.exchange import InputExchange

ALONE = InputExchange()


def packed_linear(x: Tensor, weights: Sequence[Tensor], exchange: InputExchange = ALONE) -> tuple[Tensor, ...]:
    """x [..., D] to x W_i^T [..., n_i] of every weight, where ``exchange`` makes x whole.

    The results are views of one tensor: who keeps one of them for long keeps them all, unless it copies its own.
    """
    results: tuple[Tensor, ...] = _PackedLinear.apply(exchange, x, *weights)
    return results


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


class _PackedLinear(torch.autograd.Function):
    """(exchange, x, weights) to one result for each weight."""

    @staticmethod
    def forward(ctx: Any, exchange: InputExchange, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        ctx.save_for_backward(x, *weights)
        return F.linear(exchange.gather(x)(), stacked(weights)).split([len(weight) for weight in weights], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        whole_x = ctx.exchange.gather(x)
        gradient = torch.cat(gradients, dim=-1)
        of_x = ctx.exchange.reduce(gradient @ stacked(weights))
        of_weights = gradient.flatten(0, -2).t() @ whole_x().flatten(0, -2)
        return None, of_x(), *of_weights.split([len(weight) for weight in weights])
