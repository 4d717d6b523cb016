"""Causal attention behind two functions with plain tensors in and out.

In: rotated queries and keys, values, and the documents. Out: the attention
output, sequence first. Always: softmax, lambda and the difference of the two streams in fp32 or better; a T x T matrix
is built only for the document mask, and not where flash-attn is in use. ``attention_backend`` says what is in use.

The differential form needs two attention maps over one value of width 2K, while fast kernels want equal widths:
    stacked  q = [q1 q1 q2 q2], k = [k1 k1 k2 k2], v = [va vb va vb]: 4H heads of K; used on GPUs, whose kernels are
             at their best up to width 128
    padded   queries and keys filled with zeros up to 2K: 2H heads of 2K, half the softmax work and one copy of the
             values; used on CPUs, where forward and backward took 5 to 23 % less time than stacked (T 256 to 2048).
             Unequal widths, the third way, fall back to the T x T path there: 10 % faster still at T = 256, but half
             as fast from T = 1024 on
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels import flash
from model.kernels.difference import weighted_difference


def differential_attention(
    q_TBHSK: Tensor,
    k_TBGSK: Tensor,
    v_TBGE: Tensor,
    lambda_full: Tensor,
    documents: Documents | None = None,
    form: str | None = None,
) -> Tensor:
    """(softmax(Q1 K1^T / sqrt K) - lambda softmax(Q2 K2^T / sqrt K)) V per head (DIFF paper, equation 1).

    Args:
        q_TBHSK: queries of both streams, S = 2. H is a multiple of G: head h reads key/value head h // (H/G).
        k_TBGSK: keys. v_TBGE: values, E = 2K.
        lambda_full: scalar in fp32 or better.
        documents: attention stays inside them.
        form: "stacked" or "padded"; None: the one that is faster on the tensors' device.

    Returns:
        [T, B, H, 2K] in the values' type.
    """
    return FORMS[form or _form_on(q_TBHSK.device)](q_TBHSK, k_TBGSK, v_TBGE, lambda_full, documents)


def softmax_attention(
    q_TBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None = None, scale: float | None = None
) -> Tensor:
    """softmax(Q K^T * scale) V, causal: [T, B, N, K]. N is a multiple of G: query head j reads key head j // (N/G).

    ``scale`` defaults to 1/sqrt(K).
    """
    if flash.usable(q_TBNK):
        return flash.attention(q_TBNK, k_TBGK, v_TBGK, documents, scale)
    repeats = q_TBNK.shape[2] // k_TBGK.shape[2]
    if repeats > 1:
        k_TBGK, v_TBGK = (x.repeat_interleave(repeats, dim=2) for x in (k_TBGK, v_TBGK))
    q_BNTK, k_BNTK, v_BNTK = (x.permute(1, 2, 0, 3) for x in (q_TBNK, k_TBGK, v_TBGK))
    mask = None if documents is None else documents.additive_mask(q_TBNK.dtype)
    out_BNTK = F.scaled_dot_product_attention(
        q_BNTK, k_BNTK, v_BNTK, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out_BNTK.permute(2, 0, 1, 3)


def attention_backend(device: torch.device | str, dtype: torch.dtype) -> str:
    """Which kernel and form the functions above use for tensors like these, in words."""
    device = torch.device(device)
    kernel = "flash-attn" if device.type == "cuda" and dtype in flash.DTYPES and flash.installed() else "torch SDPA"
    return f"{kernel}, differential heads {_form_on(device)}"


def _form_on(device: torch.device) -> str:
    return "padded" if device.type == "cpu" else "stacked"


def _stacked(
    q_TBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, lambda_full: Tensor, documents: Documents | None
) -> Tensor:
    """From one call with 4H heads of K over 4G, ordered (S, half, head)."""
    halves, K = 2, q_TBHSK.shape[-1]
    q, k = (x.transpose(2, 3).unsqueeze(3).expand(-1, -1, -1, halves, -1, -1).flatten(2, 4) for x in (q_TBHSK, k_TBGSK))
    v = v_TBGE.unflatten(3, (halves, K)).transpose(2, 3).unsqueeze(2).expand(-1, -1, 2, -1, -1, -1).flatten(2, 4)
    both = softmax_attention(q, k, v, documents).unflatten(2, (2, halves, -1))
    return weighted_difference(both, lambda_full, dim=2).transpose(2, 3).flatten(3)


def _padded(
    q_TBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, lambda_full: Tensor, documents: Documents | None
) -> Tensor:
    """From one call with 2H heads of width 2K over 2G, ordered (S, head)."""
    K = q_TBHSK.shape[-1]
    q, k = (F.pad(x.transpose(2, 3), (0, K)).flatten(2, 3) for x in (q_TBHSK, k_TBGSK))
    v = v_TBGE.unsqueeze(2).expand(-1, -1, 2, -1, -1).flatten(2, 3)
    both_TBSHE = softmax_attention(q, k, v, documents, scale=K**-0.5).unflatten(2, (2, -1))
    return weighted_difference(both_TBSHE, lambda_full, dim=2)


FORMS = {"stacked": _stacked, "padded": _padded}
