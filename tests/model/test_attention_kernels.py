"""The forms of attention that kernels want, against explicit T x T maps in fp64: outputs and gradients."""

import math

import pytest
import torch

from model.documents import Documents
from model.kernels.attention import (
    FORMS,
    attention_backend,
    differential_attention,
    softmax_attention,
)
from model.kernels.norm import norm_backend, rms_norm
from tests.model.helpers import assert_close

T, B, H, K = 11, 2, 3, 4
STARTS_TB = torch.tensor([[0, 0]] * 4 + [[4, 0]] * 5 + [[4, 9]] * 2, dtype=torch.int32)
documents = pytest.mark.parametrize("starts_TB", [None, STARTS_TB], ids=["one document", "documents"])


def inputs(*shapes):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def packed(starts_TB):
    return None if starts_TB is None else Documents.of(starts_TB.t())


def explicit_map(q_TBNK, k_TBNK, starts_TB, scale):
    """softmax(Q K^T scale), [B, N, T, T], with the mask written out entry by entry."""
    starts = torch.zeros(T, B, dtype=torch.int32) if starts_TB is None else starts_TB
    visible = [[[starts[i, b] <= j <= i for j in range(T)] for i in range(T)] for b in range(B)]
    scores = torch.einsum("ibnk,jbnk->bnij", q_TBNK, k_TBNK) * scale
    return scores.masked_fill(~torch.tensor(visible)[:, None], -math.inf).softmax(-1)


def assert_same(found, expected, arguments):
    assert_close(found, expected, 1e-12, "output")
    (direction,) = inputs(expected.shape)
    pairs = zip(
        torch.autograd.grad((found * direction).sum(), arguments),
        torch.autograd.grad((expected * direction).sum(), arguments),
        strict=True,
    )
    for index, (gradient, expected_gradient) in enumerate(pairs):
        assert_close(gradient, expected_gradient, 1e-11, f"gradient of argument {index}")


@documents
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_differential_attention_is_the_difference_of_two_maps(form, starts_TB):
    q, k, v, weight = arguments = inputs((T, B, H, 2, K), (T, B, H, 2, K), (T, B, H, 2 * K), ())
    found = differential_attention(q, k, v, weight, packed(starts_TB), form=form)
    first, second = (explicit_map(q[:, :, :, s], k[:, :, :, s], starts_TB, K**-0.5) for s in (0, 1))
    assert_same(found, torch.einsum("bhij,jbhe->ibhe", first - weight * second, v), arguments)


@documents
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_query_heads_share_their_groups_keys_and_values(groups, starts_TB):
    q, k, v = arguments = inputs((T, B, 6, K), (T, B, groups, K), (T, B, groups, K))
    found = softmax_attention(q, k, v, packed(starts_TB), scale=0.3)
    wide_k, wide_v = (torch.cat([x[:, :, n * groups // 6 : n * groups // 6 + 1] for n in range(6)], 2) for x in (k, v))
    maps = explicit_map(q, wide_k, starts_TB, 0.3)
    assert_same(found, torch.einsum("bnij,jbnk->ibnk", maps, wide_v), arguments)


def test_the_streams_are_subtracted_in_fp32():
    """With lambda = 1 and equal streams nothing is left, whatever bf16 would round lambda or the outputs to."""
    q, k, v = (x.bfloat16() for x in inputs((T, B, H, 1, K), (T, B, H, 1, K), (T, B, H, 2 * K)))
    q, k = (x.expand(T, B, H, 2, K) for x in (q, k))
    close_to_one = torch.tensor(1 - 2**-12)  # rounds to 1 in bf16
    out = differential_attention(q, k, v, close_to_one)
    assert out.dtype == torch.bfloat16
    assert out.abs().max() > 0


def test_the_cpu_says_what_it_uses():
    assert attention_backend("cpu", torch.float32) == "torch SDPA, differential heads padded"
    assert norm_backend("cpu") == "torch RMSNorm"


def test_rms_norm_divides_by_the_root_mean_square():
    x, weight = inputs((5, 7), (7,))
    expected = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weight
    assert_same(rms_norm(x, weight, 0.1), expected, [x, weight])
