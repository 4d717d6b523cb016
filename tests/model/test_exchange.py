"""What an input's exchange has to do with the products: what is kept, what is asked for when, and what waits."""

import torch
from torch import Tensor

from model.exchange import InputExchange, Pending
from model.packed import packed_linear
from model.unpacked import SplitInput, linear_of_split_input
from tests.live_bytes import LiveBytes

ROWS, D = (3, 7), 5


class Halves(InputExchange):
    """Two ranks that have the same part; notes what is asked for and what is waited for."""

    gathers = True

    def __init__(self) -> None:
        self.notes: list[str] = []

    def gather(self, x: Tensor) -> Pending:
        return self._later("gather", torch.cat([x, x]))

    def reduce(self, gradient: Tensor) -> Pending:
        return self._later("reduce", sum(gradient.chunk(2)))

    def _later(self, what: str, result: Tensor) -> Pending:
        self.notes.append(f"start to {what}")

        def wait() -> Tensor:
            self.notes.append(f"wait to {what}")
            return result

        return wait


def part_and_weights() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x, *weights = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((4, 3, D), *((rows, D) for rows in ROWS))
    )
    return x, weights


def expected_gradients(x: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    whole = torch.cat([x, x])
    return torch.autograd.grad(sum((whole @ weight.t()).square().sum() for weight in weights), (x, *weights))


def test_both_exchanges_of_the_backward_pass_start_before_anything_is_waited_for() -> None:
    x, weights = part_and_weights()
    exchange = Halves()
    results = packed_linear(x, weights, exchange)
    assert exchange.notes == ["start to gather", "wait to gather"]
    found = torch.autograd.grad(sum(y.square().sum() for y in results), (x, *weights))
    assert exchange.notes[2:] == ["start to gather", "start to reduce", "wait to gather", "wait to reduce"]
    for mine, expected in zip(found, expected_gradients(x, weights), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_maps_that_run_one_by_one_gather_their_input_once_and_drop_it_after_the_last() -> None:
    x, weights = part_and_weights()
    exchange = Halves()
    whole = torch.cat([x, x])
    split = SplitInput(x, exchange, readers=len(weights))
    results = [linear_of_split_input(whole, weight, split) for weight in weights]
    value = sum(y.square().sum() for y in results)
    with LiveBytes() as live:
        for again in (1, 2):
            found = torch.autograd.grad(value, (x, *weights), retain_graph=True)
            assert exchange.notes == again * ["start to gather", "wait to gather"]
            held = live.now - sum(gradient.nbytes for gradient in found)
            assert held < whole.nbytes
    for mine, expected in zip(found, expected_gradients(x, weights), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
