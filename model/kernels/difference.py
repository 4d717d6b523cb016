"""The difference of two attention maps' outputs, without wide copies of them.

In: both outputs, stacked along one dimension, and the second one's weight. Out: first - weight * second in their type.
Always: computed in the weight's type, which is fp32 or better; kept for the backward pass are the outputs as they are,
which the attention kernel keeps anyway, and the weight.
"""

from typing import Any

import torch
from torch import Tensor


def weighted_difference(both: Tensor, weight: Tensor, dim: int) -> Tensor:
    """The two slices of ``both`` along ``dim``; ``weight`` broadcasts over a slice."""
    result: Tensor = _WeightedDifference.apply(both, weight, dim)
    return result


class _WeightedDifference(torch.autograd.Function):
    """(both, weight, dim) to the difference."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, weight: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(both, weight)
        first, second = both.to(weight.dtype).unbind(dim)
        return (first - weight * second).to(both.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        both, weight = ctx.saved_tensors
        of_product = -gradients[0].to(weight.dtype)
        of_weight = (of_product * both.select(ctx.dim, 1)).sum_to_size(weight.shape)
        of_both = torch.empty_like(both)
        of_both.select(ctx.dim, 0).copy_(gradients[0])
        of_both.select(ctx.dim, 1).copy_(of_product.mul_(weight))
        return of_both, of_weight, None
