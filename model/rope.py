"""Rotary positions (Su et al., 2021) in the half-split layout of LLaMA.

In: places and document starts. Out: positions, and the angles by which model/kernels/rowwise/rotary.py rotates queries
and keys. Always: angles are computed in fp32 or better; scaled ones are transformers' of the same settings.
"""

import torch
from torch import Tensor

from model.rope_scaling import RopeScaling

AS_TRAINED = RopeScaling()


def positions_TB(index_T: Tensor, document_starts_TB: Tensor | None) -> Tensor:
    """Position of each token, counted from the start of its document: int [T, B], or [T, 1] without documents.

    ``index_T`` is its place in the sample.
    """
    return index_T[:, None] if document_starts_TB is None else index_T[:, None] - document_starts_TB


def rotary_angles(
    positions_TB: Tensor, head_dim: int, theta: float, dtype: torch.dtype, scaling: RopeScaling = AS_TRAINED
) -> tuple[Tensor, Tensor]:
    """(cos, sin) [T, B, K/2] of position * frequency, in ``dtype`` or fp32, whichever is finer.

    With yarn both are multiplied by its amplitude, and so is what they rotate, forward and backward.
    """
    precise = torch.promote_types(dtype, torch.float32)
    pairs = torch.arange(0, head_dim, 2, device=positions_TB.device, dtype=precise)
    angles = positions_TB[..., None].to(precise) * _frequencies(pairs, head_dim, theta, scaling)
    cos, sin = angles.cos(), angles.sin()
    return (cos, sin) if scaling.amplitude == 1 else (cos * scaling.amplitude, sin * scaling.amplitude)


def _frequencies(pairs: Tensor, head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Radians per token [K/2] of the pairs that begin at dimensions ``pairs`` of K: theta^(-2j/K), scaled."""
    trained = 1 / scaling.base(theta, head_dim) ** (pairs / head_dim)
    if scaling.kind == "linear":
        return trained / scaling.factor
    if scaling.kind == "yarn":
        first, last = scaling.ramp(theta, head_dim)
        slowed = ((pairs / 2 - first) / (last - first)).clamp(0, 1)
        return trained * (1 - slowed) + trained / scaling.factor * slowed
    return trained
