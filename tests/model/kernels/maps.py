"""Attention as its equations say it: whole T x T maps in fp64, entry by entry masked."""

import math

import torch
from torch import Tensor

from model.documents import Documents
from tests.model.helpers import assert_close


def randoms(*shapes: tuple[int, ...], seed: int = 2) -> list[Tensor]:
    """fp64 tensors that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def documents_of(starts_TB: Tensor | None) -> Documents | None:
    return None if starts_TB is None else Documents.of(starts_TB.t())


def explicit_map(q_TBNK: Tensor, k_TBNK: Tensor, starts_TB: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt K), [B, N, T, T]."""
    T, B, _, K = q_TBNK.shape
    starts = torch.zeros(T, B, dtype=torch.int32) if starts_TB is None else starts_TB
    visible = [[[bool(starts[i, b] <= j <= i) for j in range(T)] for i in range(T)] for b in range(B)]
    scores = torch.einsum("ibnk,jbnk->bnij", q_TBNK, k_TBNK) * K**-0.5
    return scores.masked_fill(~torch.tensor(visible)[:, None], -math.inf).softmax(-1)


def for_each_head(x_TBGW: Tensor, heads: int) -> Tensor:
    """The key/value head of each of the ``heads`` query heads, one by one."""
    groups = x_TBGW.shape[2]
    return torch.stack([x_TBGW[:, :, head * groups // heads] for head in range(heads)], dim=2)


def softmax_attention(q_TBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, starts_TB: Tensor | None) -> Tensor:
    k, v = (for_each_head(x, q_TBNK.shape[2]) for x in (k_TBGK, v_TBGK))
    return torch.einsum("bnij,jbnk->ibnk", explicit_map(q_TBNK, k, starts_TB), v)


def differential_attention(
    q_TBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, starts_TB: Tensor | None
) -> Tensor:
    """``weight`` is a scalar or [T, B, H, 1]; keys have one stream or two."""
    H = q_TBHSK.shape[2]
    k, v = for_each_head(k_TBGSK.flatten(3), H).unflatten(3, k_TBGSK.shape[3:]), for_each_head(v_TBGE, H)
    first, second = (explicit_map(q_TBHSK[..., s, :], k[..., s % k.shape[3], :], starts_TB) for s in (0, 1))
    outputs = [torch.einsum("bhij,jbhe->ibhe", one, v) for one in (first, second)]
    return outputs[0] - weight * outputs[1]


def assert_same(
    found: Tensor, expected: Tensor, arguments: list[Tensor], reference: list[Tensor], tolerance: float = 1e-12
) -> None:
    """Outputs, and the gradients of ``arguments`` beside those of ``reference``."""
    assert found.shape == expected.shape
    assert_close(found.double(), expected, tolerance, "output")
    (direction,) = randoms(tuple(expected.shape), seed=3)
    mine = torch.autograd.grad((found.double() * direction).sum(), arguments)
    wanted = torch.autograd.grad((expected * direction).sum(), reference)
    for index, (gradient, one) in enumerate(zip(mine, wanted, strict=True)):
        assert_close(gradient.double(), one, 10 * tolerance, f"gradient of argument {index}")
