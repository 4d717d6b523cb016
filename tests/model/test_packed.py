"""One product for several weights gives what one product for each gives, and each weight its own gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model.gated import gated_linear, recomputed_gated_linear
from model.kernels.rowwise.swiglu import WRITTEN
from model.packed import joined, packed_linear, stacked
from model.parallel import Linear, Unsharded
from model.recorder import Recorder, look_at_weight

ROWS, D = (3, 7, 1), 5


def apart() -> list[Tensor]:
    """Weights in memory of their own."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, D, generator=generator, dtype=torch.float64).requires_grad_() for rows in ROWS]


def side_by_side() -> list[Tensor]:
    """The same weights as neighbours in a flat buffer that has others before and behind them."""
    flat = torch.cat([torch.zeros(11), *(weight.detach().flatten() for weight in apart()), torch.zeros(4)])
    offsets = [11 + D * sum(ROWS[:number]) for number in range(len(ROWS))]
    parts = [flat[first : first + rows * D].view(rows, D) for first, rows in zip(offsets, ROWS, strict=True)]
    return [part.requires_grad_() for part in parts]


def with_a_gap() -> list[Tensor]:
    """In one buffer, but not next to one another."""
    flat = torch.cat([torch.cat([weight.detach().flatten(), torch.zeros(2)]) for weight in apart()])
    offsets = [(D * sum(ROWS[:number])) + 2 * number for number in range(len(ROWS))]
    parts = [flat[first : first + rows * D].view(rows, D) for first, rows in zip(offsets, ROWS, strict=True)]
    return [part.requires_grad_() for part in parts]


@pytest.mark.parametrize("weights", [apart(), side_by_side(), with_a_gap()], ids=["apart", "side by side", "a gap"])
def test_results_and_gradients_are_those_of_single_products(weights: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 2, D, generator=generator, dtype=torch.float64, requires_grad=True)
    directions = [torch.randn(4, 2, rows, generator=generator, dtype=torch.float64) for rows in ROWS]
    found = packed_linear(x, weights)
    expected = [x @ weight.T for weight in weights]
    gradients = [
        torch.autograd.grad(sum((y * d).sum() for y, d in zip(results, directions, strict=True)), [x, *weights])
        for results in (found, expected)
    ]
    for mine, wanted in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


def test_neighbours_in_memory_are_read_where_they_are_and_others_are_copied() -> None:
    beside, gap = side_by_side(), with_a_gap()
    assert stacked(beside).data_ptr() == beside[0].data_ptr()
    assert stacked(beside[::-1]).data_ptr() != beside[2].data_ptr()
    assert stacked(gap).data_ptr() != gap[0].data_ptr()
    for weights in (beside, beside[::-1], gap):
        assert torch.equal(stacked(weights), torch.cat(weights))


def test_neighbouring_columns_are_read_where_they_are_and_others_are_copied() -> None:
    whole = torch.randn(4, 2, sum(ROWS) + 3, generator=torch.Generator().manual_seed(3))
    columns = whole[..., 1 : 1 + sum(ROWS)]
    parts = columns.split(ROWS, dim=-1)
    assert joined(parts).data_ptr() == columns.data_ptr()
    assert joined(parts).stride() == columns.stride()
    assert torch.equal(joined(parts), columns)
    turned = [part.mT.contiguous().mT for part in parts]
    one_moved = [*parts[:2], whole[..., -ROWS[2] :]]
    for others in (parts[::-1], parts[::2], one_moved, turned, [part.clone() for part in parts]):
        assert joined(others).untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
        assert torch.equal(joined(others), torch.cat(list(others), dim=-1))


class Called(TorchDispatchMode):
    """The names of the operations under it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("product", [gated_linear, recomputed_gated_linear])
def test_gradients_of_gate_and_up_reach_their_product_without_a_copy(product: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(4)
    x, down = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((5, 3, D), (D, 7)))
    weights = [weight.requires_grad_() for weight in torch.randn(14, D, generator=generator).split(7)]
    y = product(WRITTEN, *packed_linear(x, weights), down)
    with Called() as called:
        y.sum().backward()
    assert called.names.count("mm") == 4
    assert not {"cat", "clone", "copy_"} & set(called.names)


def test_layers_that_run_together_show_their_weights_as_those_that_run_alone() -> None:
    for packs in (False, True):
        recorder, seen = Recorder(), []
        layers = [Linear(D, rows) for rows in ROWS]
        for layer in layers:
            torch.nn.init.normal_(layer.weight)
            look_at_weight(layer, recorder, lambda weight, seen=seen: seen.append(len(weight)))
        x = torch.randn(4, 2, D)
        results = Unsharded(packs).columns(x, layers)
        assert seen == []
        recorder.open()
        Unsharded(packs).columns(x, layers)
        assert seen == list(ROWS)
        for y, layer in zip(results, layers, strict=True):
            torch.testing.assert_close(y, x @ layer.weight.T)
