"""Explicit maps as a function that can be differentiated.

In: rotated queries and keys, values, weight, documents. Out: the product, which can be differentiated once. Always: so
many heads at a time that one block's map has at most ELEMENTS; with documents, those of one sequence.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.documents import Documents
from model.kernels.forms import explicit_maps
from model.kernels.forms.explicit_maps import ExplicitMaps

ELEMENTS = 2**18
"""of one map of a block"""


def attend(
    q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor | None, documents: Documents | None
) -> Tensor:
    """(softmax(Q1 K1^T / sqrt K) - weight softmax(Q2 K2^T / sqrt K)) V, causal: [U, B, H, E] in the values' type.

    Args:
        q_UBHSK: S = 2; S = 1 for one map, without ``weight``.
        k_TBGSK: as many streams as the queries have, or one that all of them read.
        weight: a scalar, or [U, B, H, 1].
        documents: attention stays inside them.
    """
    starts_UB, borders = (None, ()) if documents is None else (documents.starts_TB, documents.keys.numbers)
    result: Tensor = _Attend.apply(q_UBHSK, k_TBGSK, v_TBGE, weight, starts_UB, borders)
    return result


def at_once(sequences: int, groups: int, keys: int, separate: bool) -> tuple[int, int]:
    """(sequences, key/value heads) that are worked on at once; ``separate``: no two sequences."""
    matrices = max(1, ELEMENTS // (explicit_maps.ROWS * keys))
    if separate or matrices < 2 * groups:
        return 1, min(groups, matrices)
    return min(sequences, matrices // groups), groups


class _Attend(torch.autograd.Function):
    """(queries, keys, values, weight, first visible keys, where documents begin among keys) to the product."""

    @staticmethod
    def forward(
        ctx: Any,
        q_UBHSK: Tensor,
        k_TBGSK: Tensor,
        v_TBGE: Tensor,
        weight: Tensor | None,
        starts_UB: Tensor | None,
        borders: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(q_UBHSK, k_TBGSK, v_TBGE, weight, starts_UB)
        ctx.borders = borders
        out_UBHE = v_TBGE.new_empty(*q_UBHSK.shape[:3], v_TBGE.shape[-1])
        for part in _parts(k_TBGSK, starts_UB):
            maps = _maps(part, q_UBHSK, k_TBGSK, v_TBGE, weight, starts_UB, borders)
            _of(part, out_UBHE, k_TBGSK).copy_(maps.product())
        return out_UBHE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_UBHSK, k_TBGSK, v_TBGE, weight, starts_UB = ctx.saved_tensors
        of_q, of_k, of_v = (x.new_empty(x.shape) for x in (q_UBHSK, k_TBGSK, v_TBGE))
        of_weight = None if weight is None else weight.new_zeros(weight.shape)
        for part in _parts(k_TBGSK, starts_UB):
            maps = _maps(part, q_UBHSK, k_TBGSK, v_TBGE, weight, starts_UB, ctx.borders)
            found = maps.gradients(_of(part, gradients[0], k_TBGSK))
            for whole, own in ((of_q, found.q_UBHSK), (of_k, found.k_TBGSK), (of_v, found.v_TBGE)):
                _of(part, whole, k_TBGSK).copy_(own)
            if of_weight is not None and of_weight.ndim:
                _of(part, of_weight, k_TBGSK).copy_(found.weight_UBH1)
            elif of_weight is not None:
                of_weight += found.weight_UBH1.sum()
        return of_q, of_k, of_v, of_weight, None, None


_Part = tuple[slice, slice]
"""sequences and key/value heads"""


def _parts(k_TBGSK: Tensor, starts_UB: Tensor | None) -> Iterator[_Part]:
    T, B, G = k_TBGSK.shape[:3]
    sequences, groups = at_once(B, G, T, separate=starts_UB is not None)
    for sequence in range(0, B, sequences):
        for group in range(0, G, groups):
            yield slice(sequence, min(sequence + sequences, B)), slice(group, min(group + groups, G))


def _of(part: _Part, x: Tensor, k_TBGSK: Tensor) -> Tensor:
    """The part of a tensor [U or T, B, H or G, ...]."""
    sequences, groups = part
    each = x.shape[2] // k_TBGSK.shape[2]
    return x[:, sequences, groups.start * each : groups.stop * each]


def _maps(
    part: _Part,
    q_UBHSK: Tensor,
    k_TBGSK: Tensor,
    v_TBGE: Tensor,
    weight: Tensor | None,
    starts_UB: Tensor | None,
    borders: tuple[int, ...],
) -> ExplicitMaps:
    q, k, v = (_of(part, x, k_TBGSK) for x in (q_UBHSK, k_TBGSK, v_TBGE))
    if weight is not None and weight.ndim:
        weight = _of(part, weight, k_TBGSK)
    if starts_UB is None:
        return ExplicitMaps(q, k, v, weight, None, ())
    sequence, T = part[0].start, len(k_TBGSK)
    begin, end = (bisect_left(borders, place) for place in (sequence * T, (sequence + 1) * T))
    return ExplicitMaps(
        q, k, v, weight, starts_UB[:, sequence], [border - sequence * T for border in borders[begin:end]]
    )
