"""flash-attn 4's kernels (CuTe), for Hopper and Blackwell.

In: queries, keys and values, sequence first. Out: causal attention, the same layout. Always: nothing of T x T is
stored; documents are packed sequences; lazily imported. No GPU has run this file yet: what it takes follows the
package's source (flash_attn/cute/interface.py); wider heads are left out, since they depend on the GPU and the version.
"""

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms.kernel import Kernel, needs_half_on_cuda, packed, unpacked
from model.kernels.machine import Machine

WIDEST_HEAD = 128
ALIGNED = 8
"""elements of 16 bytes"""
GENERATIONS = (9, 10, 11)
"""of GPUs, by compute capability"""


class Flash4(Kernel):
    """`flash_attn.cute`."""

    name = "flash4"
    title = "flash-attn 4"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        if machine.kind == "cuda" and machine.capability[0] not in GENERATIONS:
            return f"needs a Hopper or Blackwell GPU, not {machine.name}"
        if key_width != value_width:
            return "takes keys and values of one width"
        if key_width > WIDEST_HEAD or key_width % ALIGNED:
            return f"takes heads of a multiple of {ALIGNED} up to {WIDEST_HEAD}, here {key_width}"
        return needs_half_on_cuda(machine, dtype, self.title)

    def attend(
        self, q_TBNK: Tensor, k_TBGK: Tensor, v_TBGE: Tensor, documents: Documents | None, scale: float
    ) -> Tensor:
        from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

        if documents is None:
            q, k, v = (x.transpose(0, 1) for x in (q_TBNK, k_TBGK, v_TBGE))
            return _output(flash_attn_func(q, k, v, softmax_scale=scale, causal=True)).transpose(0, 1)
        bounds, longest = documents.bounds, documents.longest
        out = flash_attn_varlen_func(
            *packed(q_TBNK, k_TBGK, v_TBGE),
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scale,
            causal=True,
        )
        return unpacked(_output(out), documents)


def _output(returned: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Most versions return the log-sum-exps beside the output."""
    return returned[0] if isinstance(returned, tuple) else returned
