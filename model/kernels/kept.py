"""Which kernels are in use, and what they keep for the backward pass besides their inputs and outputs.

In: the kernels in use. Out: bytes. Always: pure arithmetic; model/activations.py adds these up. model/kernels/choice.py
makes the choice, once for a model; layers read their kernels from it, and so do the accounts.
"""

from dataclasses import dataclass, field

from model.kernels.forms.base import Form


@dataclass(frozen=True)
class Kernels:
    """What is in use."""

    attention: Form
    """how the attention product is computed"""
    fused_norm: bool
    """RMSNorm keeps its input and one number per row; torch on a CPU keeps fp32 copies"""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """what to say about the choice, once, at the start of training"""


def norm_bytes(rows: int, width: int, element_bytes: int, kernels: Kernels) -> int:
    """What an RMSNorm of ``rows`` rows keeps: one fp32 number per row, and its input or copies of it."""
    if kernels.fused_norm:
        return rows * (width * element_bytes + 4)
    return rows * (width * 8 + 4)  # fp32: input and scaled input; bf16: both as fp32 copies
