"""The gate of the feed-forward network: swish(gate) * up.

In: gate and up [..., F], which may be parts of one wider tensor, and in the backward pass the gradient of their
product. Out: the product, and the gradients of both. Always: nothing is kept but gate and up, and nothing is written to
either. Both gradients lie side by side in one tensor where the kernel can write there: the packed product behind them
reads them as they lie (model/packed.py).

    written      an operation after the other, on CPUs piece by piece (pieces.py)
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
from model.kernels.rowwise.pieces import by_pieces, pieces

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
    of_gate = torch.ops.aten.silu_backward(gradient * up, gate)
    return _halves(torch.cat([of_gate, F.silu(gate).mul_(gradient)], dim=-1))


def _written_product(gate: Tensor, up: Tensor) -> Tensor:
    (product,) = _product_by_pieces(gate, up)
    return product


def _written_gradients(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():  # it refuses to write into halves of a tensor
        return _gradients(gradient, gate, up)
    of_gate, of_up = _side_by_side(gate)
    for of_product, gate_p, up_p, of_gate_p, of_up_p in pieces(gradient, gate, up, of_gate, of_up):
        torch.mul(F.silu(gate_p), of_product, out=of_up_p)
        _of_gate(of_product, gate_p, up_p, of_gate_p)
    return of_gate, of_up


def _written_again(gate: Tensor, up: Tensor) -> tuple[Tensor, Gradients]:
    """swish(gate) lies where the gradient of up will be."""
    if torch.compiler.is_compiling():
        return again_by(_product, _gradients)(gate, up)
    of_gate, swish = _side_by_side(gate)
    torch.ops.aten.silu.out(gate, out=swish)

    def gradients(gradient: Tensor) -> tuple[Tensor, Tensor]:
        for of_product, gate_p, up_p, of_gate_p, swish_p in pieces(gradient, gate, up, of_gate, swish):
            swish_p.mul_(of_product)
            _of_gate(of_product, gate_p, up_p, of_gate_p)
        return of_gate, swish

    return swish * up, gradients


def _of_gate(gradient: Tensor, gate: Tensor, up: Tensor, out: Tensor) -> None:
    torch.mul(gradient, up, out=out)
    torch.ops.aten.silu_backward.grad_input(out, gate, grad_input=out)


def _side_by_side(like: Tensor) -> tuple[Tensor, Tensor]:
    """Two halves of one tensor, each of the shape of ``like``."""
    return _halves(like.new_empty(*like.shape[:-1], 2 * like.shape[-1]))


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    first, second = both.chunk(2, dim=-1)
    return first, second


def again_by(
    forward: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Callable[[Tensor, Tensor], tuple[Tensor, Gradients]]:
    """``SwigluKernel.again`` from the other two."""
    return lambda gate, up: (forward(gate, up), lambda gradient: backward(gradient, gate, up))


def _compiled() -> SwigluKernel:
    forward, backward = Compiled(_product), Compiled(_gradients)
    return SwigluKernel("compiled", ANYWHERE, forward, backward, again_by(forward, backward))


_product_by_pieces = by_pieces(lambda gate, up: (_product(gate, up),), tokenwise=2)
WRITTEN = SwigluKernel("written", ANYWHERE, _written_product, _written_gradients, _written_again)
COMPILED = _compiled()
