"""torch's FlexAttention: a kernel compiled for the documents, on GPUs.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: blocks outside a document
are never visited, and nothing of U x T is stored; values may be of another width than keys. On a CPU it has no backward
pass (torch 2.13).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel, needs_half_on_cuda
from model.kernels.machine import Machine

NARROWEST_HEAD = 16


class Flex(Kernel):
    """`torch.nn.attention.flex_attention`, compiled."""

    name = "flex"
    title = "torch FlexAttention"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        if key_width < NARROWEST_HEAD:
            return f"takes heads of at least {NARROWEST_HEAD}, here {key_width}"
        return needs_half_on_cuda(machine, dtype, "triton")

    def attend(
        self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (q_UBNK, k_TBGK, v_TBGE))
        visible = _causal(q.shape[2], k.shape[2], q.device) if documents is None else documents.blocks
        grouped = q.shape[1] != k.shape[1]
        out_BNUE = _compiled()(q, k, v, block_mask=visible, scale=scale, enable_gqa=grouped)
        return out_BNUE.permute(2, 0, 1, 3)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return documents.with_blocks(_inside(documents.starts_TB.t(), len(documents.ends_TB)))


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@functools.lru_cache(maxsize=4)
def _causal(queries: int, keys: int, device: torch.device) -> Any:
    """The block mask of sequences that are one document each."""
    from torch.nn.attention.flex_attention import create_block_mask

    offset = keys - queries
    return create_block_mask(lambda b, h, i, j: j <= i + offset, None, None, queries, keys, device=device)


def _inside(starts_BU: Tensor, keys: int) -> Any:
    """The block mask of documents."""
    from torch.nn.attention.flex_attention import create_block_mask

    B, U = starts_BU.shape
    offset = keys - U

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i + offset) & (j >= starts_BU[b, i])

    return create_block_mask(visible, B, None, U, keys, device=starts_BU.device, _compile=True)
