"""The kernels' launches, and what they fill.

In: the operator's tensors. Out: launches and the operator's results, newly made, which they fill. Always: nothing waits
for the device; tensors on the meta device give the same launches, for those who only want to compile them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from common.errors import InputError
from model.kernels.fused.backward import deltas_kernel, keys_kernel
from model.kernels.fused.forward import forward_kernel
from model.kernels.fused.queries import queries_kernel
from model.kernels.fused.tiles import ROWS, Tile, padded, tile_of
from model.kernels.fused.views import aligned, tiles_of, weight_view


@dataclass(frozen=True)
class Launch:
    """One kernel on its grid."""

    kernel: Any
    """a function of triton.jit"""
    grid: tuple[int, int]
    arguments: dict[str, Any]
    """by the kernel's names: tensors, views, numbers, None, and what it is compiled for (``constants``)"""
    constants: dict[str, int]
    options: dict[str, int]
    """Triton's: num_warps, num_stages"""

    def __call__(self) -> None:
        self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


def run(launches: Sequence[Launch], device: torch.device) -> None:
    """All, one after the other, on ``device``.

    Raises:
        InputError: it is no NVIDIA GPU, and Triton does not interpret (TRITON_INTERPRET=1).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            for launch in launches:
                launch()
    elif triton.knobs.runtime.interpret:
        for launch in launches:
            launch()
    else:
        raise InputError(f"fused differential attention runs on NVIDIA GPUs, not on {device}; choose another form")


def forward(
    q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight_UBH: Tensor, starts_UB: Tensor | None, scale: float
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor]]:
    """Results: out [U, B, H, E], the second stream's output, the same shape, log2-sum-exps [B, H, 2, U] in fp32."""
    q, k, v = (aligned(x) for x in (q_UBHSK, k_TBGSK, v_TBGE))
    U, B, H = q.shape[:3]
    out = q.new_empty((U, B, H, v.shape[-1]))
    second = torch.empty_like(out)
    log_sums = q.new_empty((B, H, 2, U), dtype=torch.float32)
    tile = tile_of("forward", *widths(q, v))
    arguments = inputs(q, k, v, weight_UBH, scale, tile) | {
        "starts": contiguous(starts_UB),
        "out": tiles_of(out, tile.queries),
        "second": tiles_of(second, tile.queries),
        "log_sums": log_sums,
    }
    grid, compiled_for = (-(-U // tile.queries), B * H), constants(k, v, tile)
    launches = [
        Launch(forward_kernel, grid, arguments, compiled_for | streams, options(tile))
        for streams in parts(tile, "SECOND", "FIRST")
    ]
    return launches, (out, second, log_sums)


def backward(
    d_out_UBHE: Tensor,
    q_UBHSK: Tensor,
    k_TBGSK: Tensor,
    v_TBGE: Tensor,
    weight_UBH: Tensor,
    starts_UB: Tensor | None,
    ends_TB: Tensor | None,
    out_UBHE: Tensor,
    second_UBHE: Tensor,
    log_sums: Tensor,
    scale: float,
    repeatable: bool,
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Results: the gradients of q (unless ``repeatable`` in fp32), k, v and weight.

    ``repeatable``: two runs give the same bits, for 14/10 of the arithmetic.
    """
    q, k, v, d_out = (aligned(x) for x in (q_UBHSK, k_TBGSK, v_TBGE, d_out_UBHE))
    U, B, H = q.shape[:3]
    T, _, G = k.shape[:3]
    deltas = torch.empty_like(log_sums)
    d_weight = log_sums.new_empty((U, B, H))
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)
    dq = q.new_empty(q.shape) if repeatable else q.new_zeros(q.shape, dtype=torch.float32)
    by_keys, by_queries = (tile_of(name, *widths(q, v)) for name in ("keys", "queries"))
    query_grid, key_grid = (-(-U // by_queries.queries), B * H), (-(-T // by_keys.keys), B * G)

    numbers = {"log_sums": log_sums, "deltas": deltas, "scale": scale}
    of_deltas = {
        "d_out": tiles_of(d_out, ROWS),
        "out": tiles_of(out_UBHE, ROWS),
        "second": tiles_of(second_UBHE, ROWS),
        "weight": weight_view(weight_UBH),
        "deltas": deltas,
        "d_weight": d_weight,
        "U": U,
        "B": B,
        "H": H,
    }
    launches = [Launch(deltas_kernel, (-(-U // ROWS), B * H), of_deltas, {"QUERIES": ROWS}, {})]
    of_keys = inputs(q, k, v, weight_UBH, scale, by_keys) | numbers
    of_keys |= {
        "ends": contiguous(ends_TB),
        "d_out": tiles_of(d_out, by_keys.queries),
        "dq": None if repeatable else tiles_of(dq, by_keys.queries),
        "dk": tiles_of(dk, by_keys.keys),
        "dv": tiles_of(dv, by_keys.keys),
    }
    launches += [
        Launch(keys_kernel, key_grid, of_keys, constants(k, v, by_keys) | gradients, options(by_keys))
        for gradients in parts(by_keys, "OF_KEYS", "OF_VALUES")
    ]
    if repeatable:
        of_queries = inputs(q, k, v, weight_UBH, scale, by_queries) | numbers
        of_queries |= {
            "starts": contiguous(starts_UB),
            "d_out": tiles_of(d_out, by_queries.queries),
            "dq": tiles_of(dq, by_queries.queries),
        }
        compiled_for = constants(k, v, by_queries)
        launches.append(Launch(queries_kernel, query_grid, of_queries, compiled_for, options(by_queries)))
    return launches, (dq, dk, dv, d_weight)


def inputs(q: Tensor, k: Tensor, v: Tensor, weight_UBH: Tensor, scale: float, tile: Tile) -> dict[str, Any]:
    """What every kernel but the deltas' reads."""
    U, B, H = q.shape[:3]
    return {
        "q": tiles_of(q, tile.queries),
        "k": tiles_of(k, tile.keys),
        "v": tiles_of(v, tile.keys),
        "weight": weight_view(weight_UBH),
        "U": U,
        "T": k.shape[0],
        "B": B,
        "H": H,
        "heads_per_group": H // k.shape[2],
        "exponent": scale * math.log2(math.e),
    }


def widths(q: Tensor, v: Tensor) -> tuple[int, int, int]:
    """K, E and the bytes of an element."""
    return q.shape[-1], v.shape[-1], q.element_size()


def constants(k: Tensor, v: Tensor, tile: Tile) -> dict[str, int]:
    """What a kernel is compiled for."""
    sides = {"QUERIES": tile.queries, "KEYS": tile.keys}
    return {"K": padded(k.shape[-1]), "E": padded(v.shape[-1]), "ONE_KEY": k.shape[3] == 1} | sides


def parts(tile: Tile, first: str, second: str) -> list[dict[str, bool]]:
    """What each launch of a kernel does: both parts of its work, or one after the other."""
    return [{first: True, second: False}, {first: False, second: True}] if tile.apart else [{first: True, second: True}]


def options(tile: Tile) -> dict[str, int]:
    """A tile as Triton's launcher names it."""
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def contiguous(index_TB: Tensor | None) -> Tensor | None:
    """Token first, as the kernels count."""
    return None if index_TB is None else index_TB.contiguous()
