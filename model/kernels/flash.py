"""flash-attn's kernels, where the package is installed and the tensors lie on a GPU in half precision.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of T x T is
stored; documents are packed sequences of flash-attn's variable-length kernel.
"""

import functools
import importlib.util

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256


@functools.cache
def installed() -> bool:
    """The flash_attn package (version 2) can be imported."""
    return importlib.util.find_spec("flash_attn") is not None


def usable(q_TBNK: Tensor) -> bool:
    """``attention`` can take tensors like this one."""
    return q_TBNK.is_cuda and q_TBNK.dtype in DTYPES and q_TBNK.shape[-1] <= WIDEST_HEAD and installed()


def attention(
    q_TBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, document_starts_TB: Tensor | None, scale: float | None
) -> Tensor:
    """Causal attention [T, B, N, K]; grouped key/value heads as in ``kernels.attention.softmax_attention``."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    q, k, v = (x.transpose(0, 1) for x in (q_TBNK, k_TBGK, v_TBGK))
    if document_starts_TB is None:
        return flash_attn_func(q, k, v, softmax_scale=scale, causal=True).transpose(0, 1)
    bounds = document_bounds(document_starts_TB)
    T, B = document_starts_TB.shape
    packed = (x.reshape(B * T, *x.shape[2:]) for x in (q, k, v))
    out = flash_attn_varlen_func(*packed, bounds, bounds, T, T, softmax_scale=scale, causal=True)
    return out.view(B, T, *out.shape[1:]).transpose(0, 1)


def document_bounds(document_starts_TB: Tensor) -> Tensor:
    """Offsets of the documents in the batch's tokens laid end to end, with the end: int32 [documents + 1].

    The number of documents is data, so this waits for the GPU: the price of not computing, or storing, what the
    mask would hide.
    """
    T, B = document_starts_TB.shape
    index_T = torch.arange(T, device=document_starts_TB.device)
    first_B_T = (document_starts_TB.t() == index_T).flatten()
    end = torch.full((1,), B * T, dtype=torch.int32, device=document_starts_TB.device)
    return torch.cat([first_B_T.nonzero().flatten().int(), end])
