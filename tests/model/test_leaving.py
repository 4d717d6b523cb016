"""A row-parallel output leaves piece by piece: each piece is on its way while the next is computed.

Values and gradients in real processes are in tests/parallel/test_layers.py; here the group is made up, and what the
layer asks of it is written down in its order.
"""

import pytest
import torch
from torch import Tensor

from model import leaving
from model.leaving import Itself, SequenceSplitOutput, leaving_linear

T, B, WIDTH, D, RANKS = 14, 3, 5, 4, 2


class Group:
    """Two ranks that have the same inputs, so the sum is twice a rank's product."""

    def size(self) -> int:
        return RANKS


class Noted(Itself):
    """Writes down which rows are computed."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def of(self, *inputs: Tensor) -> Tensor:
        self.events.append(f"compute {inputs[0].shape[1] // B}")
        return inputs[0]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    class Work:
        def wait(self) -> None:
            found.append("wait")

    def reduce_scatter(part: Tensor, whole: Tensor, group: Group) -> Work:
        found.append(f"send {len(whole) // RANKS // B}")
        part.copy_(RANKS * whole.view(RANKS, *part.shape)[1])  # of the second rank
        return Work()

    def gather(whole: Tensor, part: Tensor, group: Group) -> Work:
        whole.copy_(torch.cat([torch.zeros_like(part), part]))
        return Work()

    monkeypatch.setattr(leaving, "reduce_scatter_flat", reduce_scatter)
    monkeypatch.setattr(leaving, "gather_flat", gather)
    return found


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_every_piece_leaves_before_the_next_is_computed(events: list[str], pieces: int) -> None:
    x, weight = torch.randn(T, B, WIDTH, dtype=torch.float64), torch.randn(D, WIDTH, dtype=torch.float64)
    output = SequenceSplitOutput(Group(), pieces)  # type: ignore[arg-type]
    found = leaving_linear(Noted(events), output, [x], weight)
    torch.testing.assert_close(found, 2 * (x @ weight.t())[T // 2 :])
    rows = {1: [7], 3: [2, 2, 3], 50: [1] * 7}[pieces]
    assert events == [said for count in rows for said in (f"compute {count}", f"send {count}")] + ["wait"] * len(rows)


def test_gradients_are_those_of_the_product_of_this_ranks_rows(events: list[str]) -> None:
    both = torch.randn(T, B, 2 * WIDTH, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(D, WIDTH, dtype=torch.float64, requires_grad=True)
    x = both[..., WIDTH:]  # a view, as a packed product leaves it
    direction = torch.randn(T // 2, B, D, dtype=torch.float64)
    found = leaving_linear(Itself(), SequenceSplitOutput(Group(), 3), [x], weight)  # type: ignore[arg-type]
    expected = (x @ weight.t())[T // 2 :]
    mine, wanted = (torch.autograd.grad(y, (both, weight), direction, retain_graph=True) for y in (found, expected))
    for gradient, reference in zip(mine, wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_a_recomputed_block_neither_computes_nor_sends_its_last_output_again(events: list[str]) -> None:
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(T, B, WIDTH, requires_grad=True)
    weight = torch.randn(D, WIDTH, requires_grad=True)
    output = SequenceSplitOutput(Group(), 2)  # type: ignore[arg-type]
    result = checkpoint(lambda x: leaving_linear(Noted(events), output, [x.sin()], weight), x, use_reentrant=False)
    forward = list(events)
    result.sum().backward()
    assert events[len(forward) :] == ["wait"]  # of the gather of the gradient
