"""Sampled rows are rows of the whole maps, built here in fp64, T x T, one row and one token at a time."""

import math

import pytest
import torch
from torch import Tensor

from model.sampled_maps import ROWS, SampledMaps, cosine, entropy, sampled_maps, sampled_rows, share_on_first

B, N, G, K = 2, 6, 3, 4


def queries_keys_starts(length: int, documents: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(7)
    q = torch.randn(length, B, N, K, generator=generator, dtype=torch.float64) * 2
    k = torch.randn(length, B, G, K, generator=generator, dtype=torch.float64) * 2
    starts = torch.zeros(length, B, dtype=torch.int32)
    starts[5:, 0], starts[length - 3 :, 1] = 5, length - 3
    return q, k, (starts if documents else None)


def of_rows(q_TBNK: Tensor, k_TBGK: Tensor, starts_TB: Tensor | None = None) -> SampledMaps:
    rows_r = sampled_rows(len(q_TBNK), q_TBNK.device)
    return sampled_maps(q_TBNK[rows_r], k_TBGK, rows_r, starts_TB)


def whole_row(q: Tensor, k: Tensor, first: int, row: int, b: int, n: int) -> list[float]:
    """The map of query ``row``: token by token, zeros where it may not look."""
    head = n // (N // G)
    scores = [float(q[row, b, n] @ k[token, b, head]) / math.sqrt(K) for token in range(first, row + 1)]
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return [0.0] * first + [w / sum(weights) for w in weights] + [0.0] * (q.shape[0] - row - 1)


@pytest.mark.parametrize("documents", [False, True])
def test_every_sampled_row_is_the_row_of_the_whole_map(documents: bool) -> None:
    length = 19
    q, k, starts = queries_keys_starts(length, documents)
    rows = sampled_rows(length, q.device).tolist()
    sampled = of_rows(q, k, starts)
    assert sampled.maps.shape == (B, N, len(rows), length)
    entropies, shares = entropy(sampled.maps), share_on_first(sampled.maps, sampled.first)
    for b in range(B):
        for n in range(N):
            for place, row in enumerate(rows):
                first = 0 if starts is None else int(starts[row, b])
                expected = whole_row(q, k, first, row, b, n)
                assert sampled.maps[b, n, place].tolist() == pytest.approx(expected, abs=1e-12)
                nats = -sum(p * math.log(p) for p in expected if p > 0)
                assert float(entropies[b, n, place]) == pytest.approx(nats, abs=1e-12)
                assert float(shares[b, n, place]) == pytest.approx(expected[first], abs=1e-12)


@pytest.mark.parametrize(
    ("length", "rows"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (8, list(range(8))), (19, [1, 3, 6, 8, 10, 13, 15, 18])]
)
def test_rows_are_spread_over_the_sequence_and_end_with_its_last(length: int, rows: list[int]) -> None:
    assert sampled_rows(length, torch.device("cpu")).tolist() == rows
    assert len(rows) <= ROWS


def test_a_signed_map_counts_by_absolute_value() -> None:
    row = torch.tensor([[[[-0.5, 0.25, 0.0, 0.25]]]], dtype=torch.float64)
    assert float(share_on_first(row, torch.tensor([[0]]))) == pytest.approx(0.5)
    assert float(entropy(row)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))


def test_a_row_that_cancels_to_nothing_is_no_nan() -> None:
    nothing = torch.zeros(1, 1, 1, 3)
    assert float(entropy(nothing)) == 0.0
    assert float(share_on_first(nothing, torch.tensor([[0]]))) == 0.0


def test_nothing_of_the_size_of_a_whole_map_is_allocated() -> None:
    length = 512
    q, k = torch.randn(length, 1, 2, K), torch.randn(length, 1, 2, K)
    sizes: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            sizes.extend([out.numel()] if isinstance(out, Tensor) else [])
            return out

    with Sizes():
        sampled = of_rows(q, k)
        entropy(sampled.maps), share_on_first(sampled.maps, sampled.first)
    assert 0 < max(sizes) <= 2 * ROWS * length


def test_half_precision_maps_are_computed_in_fp32() -> None:
    q, k, _ = queries_keys_starts(33, False)
    halves = of_rows(q.bfloat16(), k.bfloat16())
    assert halves.maps.dtype == torch.float32
    whole = of_rows(q.bfloat16().double(), k.bfloat16().double())
    assert (halves.maps - whole.maps).abs().max() < 0.05


def test_cosine_of_parallel_and_opposite_vectors() -> None:
    x = torch.tensor([[1.0, 2.0, -3.0]])
    assert float(cosine(x, 4 * x)) == pytest.approx(1.0)
    assert float(cosine(x.bfloat16(), -x.bfloat16())) == pytest.approx(-1.0)
