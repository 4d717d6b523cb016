"""Which tokens a rank has."""

import pytest
import torch

from model.context.base import Context, by_rank, in_order, spans_of


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_token_is_on_one_rank_and_every_rank_does_the_same_work(size: int) -> None:
    length = 2 * size * 7
    tokens = [[t for span in spans_of(length, size, rank) for t in range(*span)] for rank in range(size)]
    assert sorted(t for own in tokens for t in own) == list(range(length))
    work = {sum(t + 1 for t in own) for own in tokens}  # a token reads itself and all before it
    assert len(work) == 1


def test_ranks_have_mirrored_chunks() -> None:
    assert [spans_of(24, 4, rank) for rank in range(4)] == [
        ((0, 3), (21, 24)),
        ((3, 6), (18, 21)),
        ((6, 9), (15, 18)),
        ((9, 12), (12, 15)),
    ]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_order_of_the_sample_and_that_of_the_ranks(size: int) -> None:
    sample = torch.arange(2 * size * 3)[:, None] * torch.tensor([1, 100])
    laid = torch.cat([sample[slice(*span)] for rank in range(size) for span in spans_of(len(sample), size, rank)])
    assert torch.equal(by_rank(sample, size), laid)
    assert torch.equal(in_order(laid, size), sample)


def test_positions_count_in_the_sample() -> None:
    class SecondOfThree(Context):
        size, rank = 3, 1

    found = SecondOfThree().positions(4, torch.device("cpu"))
    assert found.tolist() == [2, 3, 8, 9]
