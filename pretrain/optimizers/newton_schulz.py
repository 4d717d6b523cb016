"""The nearest orthogonal matrix, roughly, by matrix products alone: the quintic Newton-Schulz iteration of Muon.

In: matrices [..., n, m], singular values and all. Out: U S V^T with the same singular vectors and every singular value
that was not tiny brought near 1. Always: the result does not depend on the scale of a matrix; each of a stack is
treated alone.

The coefficients are those of Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon: chosen for the steepest slope at 0, so that 5 steps do for singular values
down to 1/500 of the Frobenius norm; the price is that they end anywhere between 0.68 and 1.21, not at 1.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
SMALLEST_NORM = 1e-7
"""added to the norm that a matrix is divided by, as published"""


def orthogonalised(matrices: Tensor) -> Tensor:
    """Each matrix of [..., n, m] with its singular values near 1, in the arithmetic of its type."""
    a, b, c = COEFFICIENTS
    rows, columns = matrices.shape[-2:]
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + SMALLEST_NORM)
    x = x.reshape(-1, rows, columns)
    if rows > columns:  # the smaller Gram matrix
        x = x.mT
    for _ in range(STEPS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if rows > columns else x).reshape(matrices.shape)


def newton_schulz_flops(shape: Sequence[int]) -> float:
    """Operations for a stack [..., n, m]: with n the smaller, 5 x (4 n n m + 2 n n n) for each matrix."""
    small, large = sorted(shape[-2:])
    return STEPS * math.prod(shape[:-2]) * (4.0 * small * small * large + 2.0 * small**3)


def workspace_bytes(shape: Sequence[int], element_bytes: int) -> int:
    """What ``orthogonalised`` and the types around it hold at most, from an fp32 input to an fp32 result.

    Two of x, the Gram matrix and its polynomial; of narrower elements also the input.
    """
    whole, gram = math.prod(shape), math.prod(shape[:-2]) * min(shape[-2:]) ** 2
    return element_bytes * (2 * whole + 2 * gram + (whole if element_bytes < 4 else 0))
