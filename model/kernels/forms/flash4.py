"""flash-attn 4's kernels (CuTe), for Hopper and Blackwell.

In: a device, a type, widths. Out: what the package refuses, and the package. Always: lazily imported. No GPU has
run this file yet: what it takes follows the package's source (flash_attn/cute/interface.py); wider heads are left out,
since they depend on the GPU and the version.
"""

from typing import Any

import torch

from model.kernels.forms.flash import Flash
from model.kernels.forms.kernel import needs_half_on_cuda
from model.kernels.machine import Machine

WIDEST_HEAD = 128
ALIGNED = 8
"""elements of 16 bytes"""
GENERATIONS = (9, 10, 11)
"""of GPUs, by compute capability"""


class Flash4(Flash):
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

    def package(self) -> Any:
        from flash_attn import cute

        return cute
