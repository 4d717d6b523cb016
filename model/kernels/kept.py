"""Which kernels are in use, and what they keep for the backward pass besides their inputs and outputs.

In: the kernels in use. Out: bytes. Always: pure arithmetic; model/activations.py adds these up. model/kernels/choice.py
makes the choice, once for a model; layers read their kernels from it, and so do the accounts.
"""

from dataclasses import dataclass, field

from model.kernels.forms.base import Form
from model.kernels.rowwise.choice import Rowwise


@dataclass(frozen=True)
class Kernels:
    """What is in use."""

    attention: Form
    """how the attention product is computed"""
    rowwise: Rowwise
    """norms, gate, rotation and cross-entropy"""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """what to say about the choice, once, at the start of training"""


def norm_bytes(rows: int, width: int, element_bytes: int) -> int:
    """What an RMSNorm of ``rows`` rows keeps, whichever computes it: its input and one fp32 number per row."""
    return rows * (width * element_bytes + 4)
