"""Tensors as kernels read them.

In: sequence-first tensors, any view of which the last dimension is contiguous. Out: descriptors of their tiles, which
the hardware copies by itself (TMA), and a pointer with strides for lambda. Always: a row begins at a multiple of 16
bytes and no dimension has stride 0, as TMA wants it; what is not so aligned is copied once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from model.kernels.fused.tiles import padded

ALIGNMENT = 16
"""bytes"""


class WeightView(NamedTuple):
    """[U, B, heads] in fp32, with strides in elements."""

    pointer: Tensor
    token: int
    sequence: int
    head: int


def aligned(x: Tensor) -> Tensor:
    """``x``, or a copy where its rows are not contiguous or not aligned, or stand for several."""
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride(), strict=False) if size > 1]
    starts = [x.data_ptr(), *(stride * x.element_size() for stride in strides)]
    if x.stride(-1) == 1 and 0 not in strides and not any(number % ALIGNMENT for number in starts):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def tiles_of(x: Tensor, rows: int) -> TensorDescriptor:
    """Of an ``aligned`` tensor, [T, B, heads, streams, width] or [T, B, heads, width]: tiles [1, 1, 1, rows, width] of
    it as [B, heads, streams, tokens, width], the width padded."""
    if x.dim() == 4:
        x = x.unsqueeze(3)
    x = x.permute(1, 2, 3, 0, 4)
    width = x.shape[-1]
    strides = [stride if size > 1 else width for size, stride in zip(x.shape, x.stride(), strict=True)]
    return TensorDescriptor(x, list(x.shape), [*strides[:-1], 1], [1, 1, 1, rows, padded(width)])


def weight_view(weight_UBH: Tensor) -> WeightView:
    """Of a weight, which may be one number, expanded."""
    return WeightView(weight_UBH, *weight_UBH.stride())
