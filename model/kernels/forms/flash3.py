"""flash-attn 3's kernels, for Hopper.

In: a device, a type, widths. Out: what the package refuses, and the package. Always: lazily imported. No GPU has
run this file yet: what it takes follows the package's source (hopper/flash_api.cpp, hopper/flash_attn_interface.py).
"""

from typing import Any

import torch

from model.kernels.forms.flash import Flash
from model.kernels.forms.kernel import needs_half_on_cuda
from model.kernels.machine import Machine

HOPPER = (9, 0)
WIDEST_HEAD = 256
WIDEST_UNEQUAL = 64
"""of keys, where values are wider"""


class Flash3(Flash):
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

    def package(self) -> Any:
        import flash_attn_interface

        return flash_attn_interface
