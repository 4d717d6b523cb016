"""Several linear maps of one input as one matrix product.

In: x and weights [n_i, D]. Out: x W_i^T for each. Always: the weights stay parameters of their own, each with its own
gradient; forward, the input's gradient and the weights' gradients are one product each.

Weights that lie side by side in memory, as DeepSpeed's flat buffers put neighbours, are read as they are; others are
copied together for the product. The copy is made again in the backward pass rather than kept.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def packed_linear(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """x [..., D] to x W_i^T [..., n_i] of every weight.

    The results are views of one tensor: who keeps one of them for long keeps them all, unless it copies its own.
    """
    results: tuple[Tensor, ...] = _PackedLinear.apply(x, *weights)
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
    """(x, weights) to one result for each weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return F.linear(x, stacked(weights)).split([len(weight) for weight in weights], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, *weights = ctx.saved_tensors
        gradient = torch.cat(gradients, dim=-1)
        of_weights = gradient.flatten(0, -2).t() @ x.flatten(0, -2)
        return gradient @ stacked(weights), *of_weights.split([len(weight) for weight in weights])
