"""flash-attn's kernels, where the package is installed and the tensors lie on a GPU in half precision.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of T x T is
stored; documents are packed sequences of flash-attn's variable-length kernel.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from model.documents import Documents

DTYPES = (torch.float16, torch.bfloat16)
WIDEST_HEAD = 256


@functools.cache
def installed() -> bool:
    """The flash_attn package (version 2) can be imported."""
    return importlib.util.find_spec("flash_attn") is not None


def usable(q_TBNK: Tensor) -> bool:
    """``attention`` can take tensors like this one."""
    return serves(q_TBNK.device, q_TBNK.dtype, q_TBNK.shape[-1])


def serves(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """``attention`` can take heads of this width, type and place."""
    return device.type == "cuda" and dtype in DTYPES and head_dim <= WIDEST_HEAD and installed()


def attention(
    q_TBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None, scale: float | None
) -> Tensor:
    """Causal attention [T, B, N, K]; grouped key/value heads as in ``kernels.attention.softmax_attention``."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    q, k, v = (x.transpose(0, 1) for x in (q_TBNK, k_TBGK, v_TBGK))
    if documents is None:
        return flash_attn_func(q, k, v, softmax_scale=scale, causal=True).transpose(0, 1)
    T, B = documents.starts_TB.shape
    bounds, longest = documents.bounds, documents.longest
    packed = (x.reshape(B * T, *x.shape[2:]) for x in (q, k, v))
    out = flash_attn_varlen_func(*packed, bounds, bounds, longest, longest, softmax_scale=scale, causal=True)
    return out.view(B, T, *out.shape[1:]).transpose(0, 1)
