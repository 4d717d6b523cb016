"""What `make bench-gpu` measures, and the same so small that a CPU rehearses it.

In: nothing. Out: sizes. Always: the rehearsal goes through the same code.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Sizes:
    """Of everything that is measured."""

    device: str
    dtype: torch.dtype
    checked_lengths: tuple[int, ...]
    """tokens of the sequences on which implementations are compared with fp64"""
    checked_head_dims: tuple[int, ...]
    """K there"""
    head_dims: tuple[int, ...]
    """K of the operators that are timed"""
    length: int
    """tokens of their sequences"""
    sequences: int
    width: int
    """D of what they are part of: D / 2K differential heads"""
    ffn_width: int
    vocabulary: int
    left_out: tuple[str, ...]
    """implementations that do not take part"""
    rounds: int
    kinds_config: str
    kinds_layers: int
    kinds_lengths: tuple[int, ...]
    kinds_tokens: int
    models: tuple[tuple[str, tuple[str, ...]], ...]
    """configs whose training step is measured, with settings that fit them to one device"""
    steps: int
    """profiled steps of each"""


MEASUREMENT = Sizes(
    device="cuda",
    dtype=torch.bfloat16,
    checked_lengths=(1, 67, 129, 300),
    checked_head_dims=(64, 96, 104, 128),
    head_dims=(64, 128),
    length=4096,
    sequences=4,
    width=2048,
    ffn_width=5504,
    vocabulary=100_288,
    left_out=(),
    rounds=20,
    kinds_config="configs/shared_diff_830m.yaml",
    kinds_layers=4,
    kinds_lengths=(2048, 8192),
    kinds_tokens=16_384,
    models=(
        ("configs/shared_diff_830m.yaml", ("--batch.global_size", "32")),
        ("configs/shared_diff_1.4b.yaml", ("--batch.global_size", "16", "--batch.micro_size", "4")),
    ),
    steps=3,
)
REHEARSAL = Sizes(
    device="cpu",
    dtype=torch.float32,
    checked_lengths=(13,),
    checked_head_dims=(8,),
    head_dims=(8,),
    length=24,
    sequences=2,
    width=32,
    ffn_width=40,
    vocabulary=96,
    left_out=("compiled",),  # compiling takes longer than all else
    rounds=1,
    kinds_config="configs/debug_cpu.yaml",
    kinds_layers=1,
    kinds_lengths=(16,),
    kinds_tokens=32,
    models=(
        (
            "configs/debug_cpu.yaml",
            ("--data.sequence_length", "16", "--batch.global_size", "2", "--batch.micro_size", "1"),
        ),
    ),
    steps=1,
)
