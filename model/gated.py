"""The product behind a gate, which the feed-forward network ends in.

In: gate and up [..., F], a weight [D, F]. Out: (swish(gate) * up) W^T [..., D]. Always: the same bits, recomputed or
not.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.deferred import Finish, Keep, keeper_of
from model.packed import linear


def gated_linear(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """(swish(gate) * up) W^T; keeps 4 F numbers for each token."""
    return linear(F.silu(gate) * up, weight)


def recomputed_gated_linear(gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """The same; keeps gate and up, 2 F numbers, and makes the others again, for which it takes no matrix product."""
    keep = keeper_of([weight]) if gate.requires_grad else None
    result: Tensor = _GatedLinear.apply(keep, gate, up, weight if keep is None else weight.detach())
    return result


class _GatedLinear(torch.autograd.Function):
    """(who takes the product of the weight's gradient, gate, up, weight) to (swish(gate) * up) W^T."""

    @staticmethod
    def forward(ctx: Any, keep: Keep | None, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.keep = keep
        ctx.save_for_backward(gate, up, weight)
        return F.linear(F.silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        gradient, of_weight = gradients[0], None
        swish = F.silu(gate)
        finish = _weight_gradient(gradient, swish * up)
        if ctx.keep is None:
            (of_weight,) = finish()
        else:
            ctx.keep(lambda: finish)
        of_product = gradient @ weight
        of_up = swish.mul_(of_product)
        return None, torch.ops.aten.silu_backward(of_product.mul_(up), gate), of_up, of_weight


def _weight_gradient(gradient: Tensor, x: Tensor) -> Finish:
    """Computes that of x W^T."""
    return lambda: (gradient.flatten(0, -2).t() @ x.flatten(0, -2),)
