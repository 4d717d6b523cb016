"""flash-attn 3's kernels, for Hopper.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of T x T is
stored; documents are packed sequences; lazily imported. No GPU has run this file yet: what it takes follows the
package's source (hopper/flash_api.cpp, hopper/flash_attn_interface.py).
"""

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel, needs_half_on_cuda, packed, unpacked
from model.kernels.machine import Machine

HOPPER = (9, 0)
WIDEST_HEAD = 256
WIDEST_UNEQUAL = 64
"""of keys, where values are wider"""


class Flash3(Kernel):
    """`flash_attn_interface`."""

    name = "flash3"
    title = "flash-attn 3"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        if machine.kind == "cuda" and machine.capability != HOPPER:
            return f"needs a Hopper GPU, not {machine.name}"
        if key_width != value_width and key_width > WIDEST_UNEQUAL:
            return f"takes values of another width for keys of at most {WIDEST_UNEQUAL}, here {key_width}"
        if max(key_width, value_width) > WIDEST_HEAD:
            return f"takes heads of at most {WIDEST_HEAD}, here {max(key_width, value_width)}"
        return needs_half_on_cuda(machine, dtype, self.title)

    def attend(
        self, q_TBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        from flash_attn_interface import flash_attn_func, flash_attn_varlen_func

        if documents is None:
            q, k, v = (x.transpose(0, 1) for x in (q_TBNK, k_TBGK, v_TBGE))
            return flash_attn_func(q, k, v, softmax_scale=scale, causal=True).transpose(0, 1)
        ends = documents.bounds, documents.bounds, documents.longest, documents.longest
        out = flash_attn_varlen_func(*packed(q_TBNK, k_TBGK, v_TBGE), *ends, softmax_scale=scale, causal=True)
        return unpacked(out, documents)
