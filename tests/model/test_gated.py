"""Recomputed, the gated product has the bits of its operations one by one, and keeps the gate and what it gates."""

import pytest
import torch
import torch.nn.functional as F

from model.gated import gated_linear, recomputed_gated_linear
from model.kernels.rowwise.swiglu import WRITTEN
from tests.live_bytes import LiveBytes

ROWS, WIDTH, D = 11, 7, 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_three_operations_one_by_one_bit_for_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    both, weight = (
        torch.randn(*shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((ROWS, 3, 2 * WIDTH), (D, WIDTH))
    )
    gate, up = both.split(WIDTH, dim=-1)  # strided, as the packed product leaves them
    direction = torch.randn(ROWS, 3, D, generator=generator).to(dtype)
    found, expected = recomputed_gated_linear(WRITTEN, gate, up, weight), gated_linear(WRITTEN, gate, up, weight)
    assert torch.equal(found, expected)
    assert torch.equal(expected, F.linear(F.silu(gate) * up, weight))
    mine, wanted = (torch.autograd.grad(y, (both, weight), direction, retain_graph=True) for y in (found, expected))
    for gradient, reference in zip(mine, wanted, strict=True):
        assert torch.equal(gradient, reference)


def test_nothing_is_kept_but_its_inputs() -> None:
    gate, up, weight = (torch.randn(*shape).requires_grad_() for shape in ((ROWS, WIDTH), (ROWS, WIDTH), (D, WIDTH)))
    with LiveBytes([gate, up, weight]) as live:
        result = recomputed_gated_linear(WRITTEN, gate, up, weight)
    assert live.now == result.nbytes
