"""The gate of the feed-forward network: swish(gate) * up.

In: gate and up [..., F], which may be parts of one wider tensor, and in the backward pass the gradient of their
product. Out: the product, and the gradients of both. Always: nothing is kept but gate and up, and nothing is written to
either.

    written      an operation after the other
    compiled     each pass fused by torch's compiler
    flash_attn   that package's (packages.py)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.rowwise.compiled import Compiled
from model.kernels.rowwise.implementation import ANYWHERE, Implementation

Gradients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of the product's gradient those of gate and up"""


@dataclass(frozen=True)
class SwigluKernel(Implementation):
    """One implementation: functions without gradients of their own."""

    forward: Callable[[Tensor, Tensor], Tensor]
    """(gate, up) to swish(gate) * up"""
    backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(the product's gradient, gate, up) to the gradients of gate and up"""
    again: Callable[[Tensor, Tensor], tuple[Tensor, Gradients]]
    """the same for who has not kept the product: (gate, up) to the product and to what makes of its gradient, which it
    may overwrite, the gradients of gate and up"""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """The product, with gradients."""
        result: Tensor = _Swiglu.apply(self, gate, up)
        return result


class _Swiglu(torch.autograd.Function):
    """(kernel, gate, up) to their product."""

    @staticmethod
    def forward(ctx: Any, kernel: SwigluKernel, gate: Tensor, up: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(gate, up)
        return kernel.forward(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.kernel.backward(gradients[0], *ctx.saved_tensors)


def _product(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)


def _gradients(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


def _again(gate: Tensor, up: Tensor) -> tuple[Tensor, Gradients]:
    swish = F.silu(gate)

    def gradients(gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_up = swish.mul_(gradient)
        return torch.ops.aten.silu_backward(gradient.mul_(up), gate), of_up

    return swish * up, gradients


def again_by(
    forward: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Callable[[Tensor, Tensor], tuple[Tensor, Gradients]]:
    """``SwigluKernel.again`` from the other two."""
    return lambda gate, up: (forward(gate, up), lambda gradient: backward(gradient, gate, up))


def _compiled() -> SwigluKernel:
    forward, backward = Compiled(_product), Compiled(_gradients)
    return SwigluKernel("compiled", ANYWHERE, forward, backward, again_by(forward, backward))


WRITTEN = SwigluKernel("written", ANYWHERE, _product, _gradients, _again)
COMPILED = _compiled()
