"""Fused differential attention as one operator of torch.

In: sequence-first queries, keys, values, lambda and the documents as ranges. Out: (A1 - lambda A2) V. Always: works
under torch.compile, activation checkpointing and autocast (which casts queries, keys and values, never lambda);
importing this needs no Triton, calling it does. Kept for the backward pass: the inputs, the output, the second map's
output in the same type, and 2 fp32 numbers for each token and head.
"""

from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from model.kernels.fused.tiles import NARROWEST, UNIT, WIDEST

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fused_attention(
    q_UBHSK: Tensor,
    k_TBGSK: Tensor,
    v_TBGE: Tensor,
    weight_UBH: Tensor,
    starts_UB: Tensor | None = None,
    ends_TB: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """(softmax(Q1 K1^T scale) - weight softmax(Q2 K2^T scale)) V for each head, causal: [U, B, H, E].

    The queries are those of the last U of the T tokens that have keys; U = T: of all of them.

    Args:
        q_UBHSK: queries of both streams, S = 2, in fp16, bf16 or, slowly, fp32. H is a multiple of G: head h reads
            key/value head h // (H/G).
        k_TBGSK: keys; S = 1 where both streams read the same one.
        v_TBGE: values, E = SK.
        weight_UBH: lambda in fp32; one number for all as an expanded view.
        starts_UB: int32, of each query, the first key of its document; None: every sequence is one.
        ends_TB: int32, of each key, the first key behind its document, at most T.
        scale: 1/sqrt(K) if None.

    Raises:
        InputError: shapes or types that no kernel takes, or tensors that lie on no NVIDIA GPU.
    """
    device = q_UBHSK.device.type
    if torch.is_autocast_enabled(device):
        half = torch.get_autocast_dtype(device)
        q_UBHSK, k_TBGSK, v_TBGE = (x.to(half) for x in (q_UBHSK, k_TBGSK, v_TBGE))
    scale = q_UBHSK.shape[-1] ** -0.5 if scale is None else scale
    _check(q_UBHSK, k_TBGSK, v_TBGE, weight_UBH, starts_UB, ends_TB, scale)
    out_UBHE: Tensor = _forward(q_UBHSK, k_TBGSK, v_TBGE, weight_UBH, starts_UB, ends_TB, scale)[0]
    return out_UBHE


@torch.library.custom_op("shared_diff::fused_attention", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, starts: Tensor | None, ends: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    from model.kernels.fused import launch

    launches, results = launch.forward(q, k, v, weight, starts, scale)
    launch.run(launches, q.device)
    return results


@torch.library.custom_op("shared_diff::fused_attention_backward", mutates_args=())
def _backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, weight: Tensor, starts: Tensor | None, ends: Tensor | None,
    out: Tensor, second: Tensor, log_sums: Tensor, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from model.kernels.fused import launch

    repeatable = torch.are_deterministic_algorithms_enabled()
    launches, (dq, dk, dv, d_weight) = launch.backward(
        d_out, q, k, v, weight, starts, ends, out, second, log_sums, scale, repeatable
    )
    launch.run(launches, q.device)
    return dq.to(q.dtype), dk, dv, d_weight


@_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, starts: Tensor | None, ends: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    U, B, H = q.shape[:3]
    out = q.new_empty((U, B, H, v.shape[-1]))
    return out, torch.empty_like(out), q.new_empty((B, H, 2, U), dtype=torch.float32)


@_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv, q.new_empty(q.shape[:3], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.scale = scale
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_out: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    if d_out is None:
        return (None,) * 7
    return *_backward(d_out, *ctx.saved_tensors, ctx.scale), None, None, None


def _differentiate_twice(ctx: Any, *gradients: Any) -> None:
    raise RuntimeError("fused differential attention has no second derivative; choose another form of attention for it")


_forward.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_differentiate_twice)


def _check(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor, starts: Tensor | None, ends: Tensor | None, scale: float
) -> None:
    U, B, H, _, K = q.shape
    T, _, G, S, _ = k.shape
    for name, tensor, shape, dtypes in (
        ("q", q, (U, B, H, 2, K), DTYPES),
        ("k", k, (T, B, G, S, K), (q.dtype,)),
        ("v", v, (T, B, G, S * K), (q.dtype,)),
        ("weight", weight, (U, B, H), (torch.float32,)),
        ("starts", starts, (U, B), (torch.int32,)),
        ("ends", ends, (T, B), (torch.int32,)),
    ):
        if tensor is not None and (tensor.shape != shape or tensor.dtype not in dtypes):
            found, wanted = f"{tensor.dtype} {list(tensor.shape)}", f"{' or '.join(map(str, dtypes))} {list(shape)}"
            raise InputError(f"fused attention: {name} is {found}; beside the others it has to be {wanted}")
    if U > T:
        raise InputError(f"fused attention: {U} queries for {T} keys; the queries are the last ones' of them")
    if S not in (1, 2) or H % G:
        raise InputError(f"fused attention: {S} keys in {G} groups for {H} heads; it takes 1 or 2, H a multiple of G")
    if K % UNIT or not NARROWEST <= K <= WIDEST:
        raise InputError(f"fused attention: K is {K}; it has to be a multiple of {UNIT} from {NARROWEST} to {WIDEST}")
    if (starts is None) != (ends is None):
        raise InputError("fused attention: documents need both starts and ends")
    if scale <= 0:
        raise InputError(f"fused attention: scale is {scale}; it has to be positive")
