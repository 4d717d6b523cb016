"""oneDNN's products are the products: forward, both gradients, transposed and strided, in fp32 on CPUs alone."""

import pytest
import torch
from torch import Tensor

from model.kernels import products
from model.kernels.products import prefers_onednn, product
from model.packed import linear

ROWS, D, WIDTH = 13, 7, 11


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.fixture
def of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_OPERATIONS", 1)


CASES = {
    "as they lie": (drawn(ROWS, D), drawn(WIDTH, D)),
    "a transposed weight": (drawn(ROWS, D), drawn(D, WIDTH).t()),
    "a part of wider rows": (drawn(ROWS, 3, D + 5)[..., 2 : 2 + D], drawn(WIDTH, D)),
    "a turned sequence": (drawn(5, ROWS, D).transpose(0, 1), drawn(WIDTH, D)),
}


@pytest.mark.usefixtures("of_all_sizes")
@pytest.mark.parametrize(("x", "weight"), CASES.values(), ids=CASES)
def test_it_is_the_product(x: Tensor, weight: Tensor) -> None:
    assert prefers_onednn(x, weight)
    expected = (x.double() @ weight.double().t()).float()
    torch.testing.assert_close(product(x, weight), expected, rtol=1e-6, atol=1e-6)
    rows = x.flatten(0, -2)
    out = torch.full((len(rows), WIDTH + 2), 3.0)
    assert product(rows, weight, out=out[:, :WIDTH]).data_ptr() == out.data_ptr()
    torch.testing.assert_close(out[:, :WIDTH], expected.flatten(0, -2), rtol=1e-6, atol=1e-6)
    assert bool((out[:, WIDTH:] == 3).all())


@pytest.mark.usefixtures("of_all_sizes")
def test_a_linear_map_has_both_gradients() -> None:
    x, weight, direction = drawn(5, 3, D).requires_grad_(), drawn(WIDTH, D).requires_grad_(), drawn(5, 3, WIDTH)
    found = torch.autograd.grad(linear(x, weight), (x, weight), direction)
    expected = torch.autograd.grad(x.double() @ weight.double().t(), (x, weight), direction.double())
    for mine, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


def test_small_products_other_types_and_autocast_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = drawn(ROWS, D), drawn(WIDTH, D)
    monkeypatch.setattr(products, "LEAST_OPERATIONS", ROWS * D * WIDTH)
    assert prefers_onednn(x, weight)
    assert not prefers_onednn(x[1:], weight)
    assert not prefers_onednn(x.double(), weight.double())
    assert not prefers_onednn(x.bfloat16(), weight.bfloat16())
    assert not prefers_onednn(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_onednn(x, weight)
        assert product(x, weight).dtype == torch.bfloat16
