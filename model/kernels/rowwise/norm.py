"""RMSNorm, alone and after the sum with a residual stream.

In: x [..., n], a scale [n], for the second form a residual like x. Out: x / sqrt(mean(x²) + eps) * scale in x's type;
the second form normalises the sum, and hands it out, too. Always: the mean is fp32 or better.

    torch        torch's rms_norm: a kernel of its own on a GPU; on a CPU, for which it is refused, a dozen operations
                 that keep fp32 copies
    written      forward and backward as written below, an operation after the other, on CPUs piece by piece (pieces.py)
    compiled     the same, each pass fused by torch's compiler
    apex, flash_attn, liger    kernels of these packages (packages.py)

What is kept for the backward pass: the input and one fp32 number for each row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.rowwise.compiled import Compiled
from model.kernels.rowwise.implementation import ANYWHERE, Implementation, Needs
from model.kernels.rowwise.pieces import by_pieces


@dataclass(frozen=True)
class NormKernel(Implementation):
    """One implementation."""

    norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x, scale, eps) to the norm"""
    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """(x, residual, scale, eps) to (norm of the sum, sum)"""


def _normalised(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(the norm, 1 / rms of each row [..., 1])."""
    precise = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
    inverse = (length.square() / x.shape[-1] + eps).rsqrt()
    return (x * inverse).mul_(weight).to(x.dtype), inverse


def _differentiated(gradient: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of the scale in the type of ``inverse``, with few wide tensors at once.

    With u = x / rms and g = gradient * scale: dx = (g - u mean(g u)) / rms, dscale = sum of gradient * u.
    """
    gradient = gradient.to(inverse.dtype)
    unit, scale = x * inverse, weight.to(inverse.dtype)
    product = gradient * unit
    mean = (product @ scale)[..., None] / x.shape[-1]
    of_weight = product.flatten(0, -2).sum(0)
    del product
    of_x = (gradient * scale).addcmul_(unit, mean, value=-1).mul_(inverse)
    return of_x.to(x.dtype), of_weight


def _added(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(norm of the sum, sum, 1 / rms of each row)."""
    total = x + residual
    normed, inverse = _normalised(total, weight, eps)
    return normed, total, inverse


def _added_differentiated(
    gradient: Tensor, of_total: Tensor, total: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of both summands, which are the same, and of the scale."""
    of_x, of_weight = _differentiated(gradient, total, inverse, weight)
    return of_x + of_total, of_weight


class _Norm(torch.autograd.Function):
    """(forward and backward, x, scale, eps) to the norm."""

    @staticmethod
    def forward(ctx: Any, passes: tuple[Callable[..., Any], ...], x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.backward_pass = passes[1]
        normed: Tensor
        normed, inverse = passes[0](x, weight, eps)
        ctx.save_for_backward(x, inverse, weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        of_x, of_weight = ctx.backward_pass(gradients[0], x, inverse, weight)
        return None, of_x, of_weight.to(weight.dtype), None


class _AddNorm(torch.autograd.Function):
    """(forward and backward, x, residual, scale, eps) to (norm of the sum, sum)."""

    @staticmethod
    def forward(
        ctx: Any, passes: tuple[Callable[..., Any], ...], x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.backward_pass = passes[1]
        normed, total, inverse = passes[0](x, residual, weight, eps)
        ctx.save_for_backward(total, inverse, weight)
        return normed, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total, inverse, weight = ctx.saved_tensors
        of_x, of_weight = ctx.backward_pass(*gradients, total, inverse, weight)
        return None, of_x, of_x, of_weight.to(weight.dtype), None


def after_sum(norm: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The second form for who has only the first."""

    def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return norm(total, weight, eps), total

    return add_norm


def _torch_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


def _of_passes(
    name: str, alone: tuple[Callable[..., Any], ...], after_a_sum: tuple[Callable[..., Any], ...]
) -> NormKernel:
    """From forward and backward of both forms."""

    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        result: Tensor = _Norm.apply(alone, x, weight, eps)
        return result

    def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _AddNorm.apply(after_a_sum, x, residual, weight, eps)
        return result

    return NormKernel(name, ANYWHERE, norm, add_norm)


TORCH = NormKernel("torch", Needs(gpu=True), _torch_norm, after_sum(_torch_norm))
WRITTEN = _of_passes(
    "written",
    (by_pieces(_normalised, tokenwise=1), by_pieces(_differentiated, tokenwise=3, summed=1)),
    (by_pieces(_added, tokenwise=2), by_pieces(_added_differentiated, tokenwise=4, summed=1)),
)
COMPILED = _of_passes(
    "compiled",
    (Compiled(_normalised), Compiled(_differentiated)),
    (Compiled(_added), Compiled(_added_differentiated)),
)
