"""The attention product of one layer, timed: every form beside the matched standard Transformer's.

In: Sizes. Out: rows as of the other operators. Always: H differential heads of (K, 2K) have H = D / 2K, the standard
Transformer twice as many heads of K: the same queries, keys and values in all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from model.kernels.forms.base import PLAIN, TWO_STREAMS, Case, Maps
from model.kernels.forms.registry import FORMS
from model.kernels.machine import Machine
from scripts.speed.operators import OperatorRow, rows_of
from scripts.speed.sizes import Sizes


def attention_rows(sizes: Sizes) -> list[OperatorRow]:
    """Of all widths and forms."""
    rows = []
    for head_dim in sizes.head_dims:
        rows += _rows_of_width(sizes, head_dim)
    return rows


def standard_name(head_dim: int) -> str:
    """Of the operator that the others are matched with."""
    return f"standard attention, K {head_dim}"


def differential_name(head_dim: int) -> str:
    """Of differential heads."""
    return f"differential attention, (K, 2K) = ({head_dim}, {2 * head_dim})"


def _rows_of_width(sizes: Sizes, K: int) -> list[OperatorRow]:
    T, B, H = sizes.length, sizes.sequences, max(1, sizes.width // (2 * K))
    device, dtype = torch.device(sizes.device), sizes.dtype
    draw = partial(torch.randn, device=device, dtype=dtype)
    weight = torch.tensor(0.5, device=device)

    def difference(form: Any) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: form.difference(q, k, v, weight, None)

    def softmax(form: Any) -> Callable[..., torch.Tensor]:
        return lambda q, k, v: form.softmax(q, k, v, None)

    streams = draw(T, B, H, 2, K), draw(T, B, H, 2, K), draw(T, B, H, 2 * K)
    heads = draw(3, T, B, 2 * H, K)
    return rows_of(
        differential_name(K), {form.name: difference(form) for form in _usable(sizes, TWO_STREAMS, K)}, streams, sizes
    ) + rows_of(
        standard_name(K), {form.name: softmax(form) for form in _usable(sizes, PLAIN, K)}, heads.unbind(), sizes
    )


def _usable(sizes: Sizes, maps: Maps, head_dim: int) -> list[Any]:
    case = Case(Machine.here(sizes.device), sizes.dtype, maps, head_dim, sizes.length)
    return [form for form in FORMS if form.refusal(case) is None]
