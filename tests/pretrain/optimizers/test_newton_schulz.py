"""The iteration against a singular value decomposition in fp64."""

import pytest
import torch

from pretrain.optimizers.newton_schulz import COEFFICIENTS, STEPS, orthogonalised

LOWEST, HIGHEST = 0.68, 1.21
"""the band of the published coefficients"""
REACH = 1 / 500
"""singular values down to this share of the Frobenius norm get into it"""


def with_singular_values(values: torch.Tensor, rows: int, columns: int, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    count = len(values)
    left, _ = torch.linalg.qr(torch.randn(rows, count, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, count, generator=generator, dtype=torch.float64))
    return left @ torch.diag(values) @ right.T


def scalar(value: torch.Tensor) -> torch.Tensor:
    """What the iteration does to one singular value that was divided by the norm."""
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        value = a * value + b * value**3 + c * value**5
    return value


@pytest.mark.parametrize(("rows", "columns"), [(7, 19), (19, 7), (11, 11), (1, 13), (13, 1)])
def test_singular_vectors_stay_and_values_get_near_1(rows: int, columns: int) -> None:
    values = torch.logspace(-2, 0, min(rows, columns), dtype=torch.float64) * 37.0
    matrix = with_singular_values(values, rows, columns)
    left, found, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalised(matrix)
    expected = left @ torch.diag(scalar(found / found.norm())) @ right
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)  # the norm has 1e-7 added
    reached = torch.linalg.svdvals(result)
    assert reached.min() > LOWEST and reached.max() < HIGHEST


def test_the_band_is_reached_from_everywhere_above_one_five_hundredth() -> None:
    reached = scalar(torch.logspace(torch.log10(torch.tensor(REACH)).item(), 0, 20_001, dtype=torch.float64))
    assert reached.min() > LOWEST and reached.max() < HIGHEST
    assert scalar(torch.tensor(REACH / 2, dtype=torch.float64)) < LOWEST


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_stack_is_its_matrices_and_the_scale_does_not_count(dtype: torch.dtype) -> None:
    stack = torch.randn(3, 2, 5, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    result = orthogonalised(stack)
    assert result.shape == stack.shape and result.dtype == dtype
    loose = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.08}[dtype]
    for one, whole in zip(stack.flatten(0, 1), result.flatten(0, 1), strict=True):
        torch.testing.assert_close(orthogonalised(one), whole, rtol=0, atol=loose)
    torch.testing.assert_close(orthogonalised(64 * stack), result, rtol=0, atol=loose)
    tall = orthogonalised(stack.mT.contiguous()).mT
    torch.testing.assert_close(tall, result, rtol=0, atol=loose)


def test_nothing_stays_nothing() -> None:
    assert not orthogonalised(torch.zeros(3, 4)).any()
