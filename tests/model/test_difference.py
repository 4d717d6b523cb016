"""The difference of two maps' outputs: the bits of wide arithmetic, and no wide copy kept for it."""

import pytest
import torch
from torch import Tensor

from model.kernels.difference import weighted_difference
from tests.live_bytes import LiveBytes

T, H, K = 11, 3, 5
WEIGHTS = {"one for all": (), "one for each token and head": (T, H, 1)}


def both_and_weight(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    both = torch.randn(T, 2, H, K, generator=generator).to(dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    return both, torch.rand(shape, generator=generator).to(wide).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", WEIGHTS.values(), ids=WEIGHTS)
def test_it_is_computed_wide_and_rounded_once_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    both, weight = both_and_weight(dtype, shape)
    first, second = both.to(weight.dtype).unbind(1)
    found, expected = weighted_difference(both, weight, dim=1), (first - weight * second).to(dtype)
    assert torch.equal(found, expected)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    mine, wanted = (torch.autograd.grad(y, (both, weight), direction) for y in (found, expected))
    for gradient, reference in zip(mine, wanted, strict=True):
        assert torch.equal(gradient, reference)


def test_nothing_is_kept_but_its_inputs() -> None:
    both, weight = both_and_weight(torch.bfloat16, ())
    with LiveBytes([both, weight]) as live:
        result = weighted_difference(both, weight, dim=1)
    assert live.now == result.nbytes
