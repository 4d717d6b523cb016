"""torch's own scaled_dot_product_attention: on every device and in every type.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: grouped heads are read as
they are; of documents it reads a U x T mask, which is built once per micro-batch, and so it does on a CPU of fewer
queries than keys.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import HALF_TYPES, Kernel
from model.kernels.machine import Machine


class Sdpa(Kernel):
    """Whatever back end torch chooses."""

    name = "sdpa"
    title = "torch SDPA"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        return None

    def attend(
        self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (q_UBNK, k_TBGK, v_TBGE))
        U, T = q.shape[2], k.shape[2]
        mask: Tensor | None = None
        if documents is not None:
            mask = documents.additive_mask(q.dtype)
        elif U < T:
            mask = _lower_right(U, T, q.dtype, q.device)
        out_BNUE = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out_BNUE.permute(2, 0, 1, 3)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return documents.masked(dtype)

    def layout_elements(self, keys: int) -> int:
        return keys


def _lower_right(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What makes attention causal if the last of fewer queries sees the last key; ``is_causal`` lets the first see the
    first one. CUDA's kernels for half types are told so and read no mask."""
    if device.type == "cuda" and dtype in HALF_TYPES:
        from torch.nn.attention.bias import causal_lower_right  # loads torch's compiler

        return causal_lower_right(queries, keys)
    return _additive(queries, keys, dtype, device)


@functools.lru_cache(maxsize=4)
def _additive(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[U, T], one for all layers: 0 where a query may read a key, -inf elsewhere."""
    return torch.full((queries, keys), -torch.inf, dtype=dtype, device=device).triu_(keys - queries + 1)
