"""Rotary positions (Su et al., 2021) in the half-split layout of LLaMA.

In: document starts. Out: positions, and the angles by which model/kernels/rowwise/rotary.py rotates queries and keys.
Always: angles are computed in fp32 or better.
"""

import torch
from torch import Tensor


def positions_TB(sequence_length: int, document_starts_TB: Tensor | None, device: torch.device) -> Tensor:
    """Position of each token, counted from the start of its document: int [T, B], or [T, 1] without documents."""
    index_T1 = torch.arange(sequence_length, device=device)[:, None]
    return index_T1 if document_starts_TB is None else index_T1 - document_starts_TB


def rotary_angles(positions_TB: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(cos, sin) [T, B, K/2] of position * theta^(-2j/K), in ``dtype`` or fp32, whichever is finer."""
    precise = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=positions_TB.device, dtype=precise) / head_dim
    angles = positions_TB[..., None].to(precise) * (1 / theta**exponents)
    return angles.cos(), angles.sin()
