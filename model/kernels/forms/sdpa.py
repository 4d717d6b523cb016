"""torch's own scaled_dot_product_attention: on every device and in every type.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: grouped heads are read as
they are; of documents it reads a T x T mask, which is built once per micro-batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel
from model.kernels.machine import Machine


class Sdpa(Kernel):
    """Whatever back end torch chooses."""

    name = "sdpa"
    title = "torch SDPA"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        return None

    def attend(
        self, q_TBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        q, k, v = (x.permute(1, 2, 0, 3) for x in (q_TBNK, k_TBGK, v_TBGE))
        mask = None if documents is None else documents.additive_mask(q.dtype)
        out_BNTE = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out_BNTE.permute(2, 0, 1, 3)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return documents.masked(dtype)

    def layout_elements(self, length: int) -> int:
        return length
