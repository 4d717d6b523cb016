"""What kernels keep for the backward pass besides their inputs and outputs.

In: the kernels in use. Out: bytes. Always: pure arithmetic; model/activations.py adds these up.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernels:
    """What is in use, as far as memory depends on it."""

    fused_norm: bool
    """RMSNorm keeps its input and one number per row; torch on a CPU keeps fp32 copies"""
    stacked: bool
    """differential attention runs 4h heads of K (GPU), else 2h heads of 2K (CPU)"""
    grouped: bool
    """the attention kernel reads grouped key/value heads without repeating them (flash-attn)"""
    bounded: bool
    """the attention kernel reads the documents' bounds (flash-attn); torch's takes a mask"""


GPU = Kernels(fused_norm=True, stacked=True, grouped=True, bounded=True)
"""apex's or torch's fused norm, flash-attn"""
CPU = Kernels(fused_norm=False, stacked=False, grouped=False, bounded=False)


def norm_bytes(rows: int, width: int, element_bytes: int, kernels: Kernels) -> int:
    """What an RMSNorm of ``rows`` rows keeps: one fp32 number per row, and its input or copies of it."""
    if kernels.fused_norm:
        return rows * (width * element_bytes + 4)
    return rows * (width * 8 + 4)  # fp32: input and scaled input; bf16: both as fp32 copies
