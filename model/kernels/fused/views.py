"""Tensors as kernels read them: a pointer and strides.

In: sequence-first tensors, any view of which the last dimension is contiguous. Out: named tuples of plain values.
Always: strides count units of 16 bytes of a half type, so that the compiler knows every row to be aligned and loads it
in the widest pieces; what is not so aligned is copied once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 8
"""elements"""


class HeadsView(NamedTuple):
    """[T, B, heads, streams, width]; strides of dimensions of size 1 are 0."""

    pointer: Tensor
    token: int
    sequence: int
    head: int
    stream: int


class WeightView(NamedTuple):
    """[T, B, heads] in fp32, with strides in elements."""

    pointer: Tensor
    token: int
    sequence: int
    head: int


def aligned(x: Tensor) -> Tensor:
    """``x``, or a copy where its rows are not contiguous or not aligned to the unit."""
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride(), strict=False) if size > 1]
    address = x.data_ptr() // x.element_size()
    if x.stride(-1) == 1 and not any(number % UNIT for number in (*strides, address)):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def heads_view(x: Tensor) -> HeadsView:
    """Of an ``aligned`` tensor, [T, B, heads, streams, width] or [T, B, heads, width]."""
    if x.dim() == 4:
        x = x.unsqueeze(3)
    return HeadsView(x, *(stride // UNIT for stride in _strides(x)[:4]))


def weight_view(weight_TBH: Tensor) -> WeightView:
    """Of a weight, which may be one number, expanded."""
    return WeightView(weight_TBH, *_strides(weight_TBH))


def _strides(x: Tensor) -> list[int]:
    return [stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True)]
