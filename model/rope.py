"""Rotary positions (Su et al., 2021) in the half-split layout of LLaMA.

In: positions and one K-wide stream of queries or keys. Out: the rotated stream. Always: angles and rotation are
computed in fp32 or better; the result has the type of the input.
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


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the pairs (x_j, x_{j+K/2}) of x [T, B, ..., K] by ``angles`` [T, B, K/2]."""
    broadcast = (*angles[0].shape[:2], *(1 for _ in x.shape[2:-1]), -1)
    cos, sin = angles[0].view(broadcast), angles[1].view(broadcast)
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
