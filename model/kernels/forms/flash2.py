"""flash-attn 2's kernels.

In: a device, a type, widths. Out: what the package refuses, and the package. Always: lazily imported.
"""

from typing import Any

import torch

from model.kernels.forms.flash import Flash
from model.kernels.forms.kernel import needs_half_on_cuda
from model.kernels.machine import Machine

WIDEST_HEAD = 256


class Flash2(Flash):
    """`flash_attn`, 2.7 and later."""

    name = "flash2"
    title = "flash-attn 2"

    def refusal(self, machine: Machine, dtype: torch.dtype, key_width: int, value_width: int) -> str | None:
        if key_width != value_width:
            return "takes keys and values of one width"
        if key_width > WIDEST_HEAD:
            return f"takes heads of at most {WIDEST_HEAD}, here {key_width}"
        return needs_half_on_cuda(machine, dtype, self.title)

    def package(self) -> Any:
        import flash_attn

        return flash_attn
