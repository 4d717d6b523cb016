"""Queries and keys of Shared DIFF: one shared base, low-rank updates per head and stream.

In: x W for the base and x A for the down-projections. Out: q or k of every head and both streams; or the equivalent
plain matrix. Always: W_{h,s} = W + A_s B_{h,s} (base `layer`, down `layer`); base `head` has its own W_h, down `head`
its own A_{h,s} (Shared DIFF paper, equations 3 and 4 and section 2.4).

Weights are stored [out, in], so the update of one head and stream is up [K, R] @ down [R, D].
"""

import torch
from torch import Tensor


def with_updates(base: Tensor, low_rank: Tensor, up_HSKR: Tensor) -> Tensor:
    """x (W + A B) of every head and stream: [T, B, H, S, K].

    Args:
        base: x W, [T, B, K] shared by all heads or [T, B, H, K].
        low_rank: x A, [T, B, S, R] shared by all heads or [T, B, H, S, R].
        up_HSKR: the heads' B.
    """
    equation = "tbsr,hskr->tbhsk" if low_rank.ndim == 4 else "tbhsr,hskr->tbhsk"
    update_TBHSK = torch.einsum(equation, low_rank, up_HSKR)
    base_TBH1K = base[:, :, None, None] if base.ndim == 3 else base[:, :, :, None]
    return base_TBH1K + update_TBHSK


def update_norms(down: Tensor, up_HSKR: Tensor) -> Tensor:
    """||A B|| (Frobenius) of every head and stream, [H, S] in fp32 or better, without the product itself.

    ||up down||^2 = sum of (up^T up) * (down down^T), two matrices of R x R.

    Args:
        down: [S, R, D] or [H, S, R, D].
        up_HSKR: the heads' B.
    """
    precise = torch.promote_types(up_HSKR.dtype, torch.float32)
    down, up_HSKR = down.to(precise), up_HSKR.to(precise)
    square_HS = ((up_HSKR.mT @ up_HSKR) * (down @ down.mT)).sum((-2, -1))
    return square_HS.clamp(min=0).sqrt()


def merged_weight(base_weight: Tensor, down: Tensor, up_HSKR: Tensor) -> Tensor:
    """The plain weight [H*2*K, D], rows ordered (head, stream, k), that gives the same queries or keys.

    Args:
        base_weight: [K, D] or [H*K, D]. down: [S, R, D] or [H, S, R, D]. up_HSKR: [H, S, K, R].
    """
    base_weight = base_weight.unflatten(0, (-1, 1, up_HSKR.shape[2]))  # [1 or H, 1, K, D]
    return (base_weight + up_HSKR @ down).flatten(0, 2)
