"""The rotation of queries and keys by their positions.

In: x [T, B, ..., K] and the cosines and sines of its angles [T, B or 1, K/2], fp32 or better. Out: the pairs
(x_j, x_{j+K/2}) rotated, in x's type; a new contiguous tensor. Always: computed in the type of the angles; for the
backward pass nothing is kept but them: the gradient is rotated back.

    written      an operation after the other, without a copy of the halves, on CPUs piece by piece (pieces.py)
    compiled     one pass, fused by torch's compiler
    flash_attn   that package's (packages.py)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.kernels.rowwise.compiled import Compiled
from model.kernels.rowwise.implementation import ANYWHERE, Implementation
from model.kernels.rowwise.pieces import by_pieces


@dataclass(frozen=True)
class RotaryKernel(Implementation):
    """One implementation."""

    turn: Callable[[Tensor, Tensor, Tensor, bool], Tensor]
    """(x, cosines, sines, back) to x rotated, or rotated back; without gradients of its own"""

    def __call__(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """``x`` rotated, with a gradient."""
        result: Tensor = _Turn.apply(self, x, *angles)
        return result


class _Turn(torch.autograd.Function):
    """(kernel, x, cosines, sines) to x rotated."""

    @staticmethod
    def forward(ctx: Any, kernel: RotaryKernel, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(cos, sin)
        return kernel.turn(x, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.kernel.turn(gradients[0], *ctx.saved_tensors, True), None, None


def _over_heads(angles: Tensor, x: Tensor) -> Tensor:
    """[T, B or 1, K/2] with a 1 for each dimension of heads that ``x`` has."""
    return angles.view(*angles.shape[:2], *(1 for _ in x.shape[2:-1]), -1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> tuple[Tensor]:
    cos, sin = _over_heads(cos, x), _over_heads(sin, x)
    precise = x.to(cos.dtype)
    turned = precise * torch.cat([cos, cos], dim=-1)
    first, second = precise.chunk(2, dim=-1)
    of_first, of_second = turned.chunk(2, dim=-1)
    of_first.addcmul_(second, sin, value=1 if back else -1)
    of_second.addcmul_(first, sin, value=-1 if back else 1)
    return (turned.to(x.dtype),)


_turned_by_pieces = by_pieces(_turned, tokenwise=3)


def _written(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    (turned,) = _turned_by_pieces(x, cos, sin, back)
    return turned


def _fusable(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    cos, sin = _over_heads(cos, x), _over_heads(-sin if back else sin, x)
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


WRITTEN = RotaryKernel("written", ANYWHERE, _written)
COMPILED = RotaryKernel("compiled", ANYWHERE, Compiled(_fusable))
