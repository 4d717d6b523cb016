"""flash-attn 2's kernels.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of T x T is
stored; documents are packed sequences of its variable-length kernel; lazily imported.
"""

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel, needs_half_on_cuda, packed, unpacked
from model.kernels.machine import Machine

WIDEST_HEAD = 256


class Flash2(Kernel):
    """`flash_attn`, 2.7 and later."""

    name = "flash2"
    title = "flash-attn 2"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        if key_width != value_width:
            return "takes keys and values of one width"
        if key_width > WIDEST_HEAD:
            return f"takes heads of at most {WIDEST_HEAD}, here {key_width}"
        return needs_half_on_cuda(machine, dtype, self.title)

    def attend(
        self, q_TBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        from flash_attn import flash_attn_func, flash_attn_varlen_func

        if documents is None:
            q, k, v = (x.transpose(0, 1) for x in (q_TBNK, k_TBGK, v_TBGE))
            return flash_attn_func(q, k, v, softmax_scale=scale, causal=True).transpose(0, 1)
        ends = documents.bounds, documents.bounds, documents.longest, documents.longest
        out = flash_attn_varlen_func(*packed(q_TBNK, k_TBGK, v_TBGE), *ends, softmax_scale=scale, causal=True)
        return unpacked(out, documents)
