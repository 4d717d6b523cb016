"""The operator's output and gradients are those of explicit T x T maps in fp64."""

import pytest
import torch

from model.kernels.fused.operator import fused_attention
from tests.model.kernels.fused.maps import (
    Case,
    Inputs,
    assert_near,
    direction_of,
    drawn_cases,
    explicit_attention,
    inputs,
)

WIDTHS = [32, 64, 96, 104, 128, 88, 16]
NAMES = ("queries' gradient", "keys' gradient", "values' gradient", "lambda's gradient")
PACKED = Case(T=37, B=2, H=4, G=2, S=2, K=32, borders=(1, 2, 16, 30))
SHARED_KEY = Case(T=41, B=1, H=3, G=1, S=1, K=64, borders=(5, 33))
PARTS = [
    Case(T=61, B=2, H=4, G=2, S=2, K=32, borders=(1, 17, 40, 41), begin=39),
    Case(T=67, B=1, H=2, G=2, S=1, K=32, begin=19),
    Case(T=50, B=2, H=2, G=1, S=2, K=32, borders=(20, 49), one_lambda=True, begin=49),
]
"""of the queries: behind documents that have none, at no multiple of a tile, one query alone"""


def assert_equals_explicit(given: Inputs, tolerance: float, scale: float | None = None) -> None:
    found = fused_attention(*given.tensors, *given.ranges, scale)
    expected, leaves = explicit_attention(given, scale)
    assert found.dtype == given.q_UBHSK.dtype
    assert_near(found, expected, tolerance, "output")
    direction = direction_of(found)
    gradients = torch.autograd.grad(found, given.tensors, direction)
    expected_gradients = torch.autograd.grad(expected, leaves, direction.double())
    for name, tensor, gradient, wanted in zip(NAMES, given.tensors, gradients, expected_gradients, strict=True):
        assert gradient.dtype == tensor.dtype
        assert_near(gradient, wanted, tolerance, name)


@pytest.mark.parametrize("case", drawn_cases(14, WIDTHS), ids=str)
def test_drawn_shapes(case: Case) -> None:
    assert_equals_explicit(inputs(case), 2e-5)


@pytest.mark.parametrize("case", PARTS, ids=str)
def test_fewer_queries_than_keys(case: Case) -> None:
    assert_equals_explicit(inputs(case), 2e-5)


@pytest.mark.parametrize("case", [PACKED, SHARED_KEY], ids=["two keys", "one key"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)], ids=["fp16", "bf16"])
def test_half_types_stay_within_their_rounding(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Four roundings of 2^-10 and, as Triton's interpreter cuts bf16 off instead of rounding it, of 2^-7."""
    assert_equals_explicit(inputs(case, dtype), tolerance)


def test_another_scale() -> None:
    assert_equals_explicit(inputs(PACKED), 2e-5, scale=0.3)


def test_views_whose_rows_lie_askew() -> None:
    """At odd elements, with a stride between elements, with an odd stride where there is one sequence only, and a
    gradient that is one number for all."""
    given = inputs(SHARED_KEY)
    q, k, v = (tensor.detach() for tensor in given.tensors[:3])
    shifted = torch.cat([q[..., :1], q], dim=-1)[..., 1:]
    spread = k.repeat_interleave(2, dim=-1)[..., ::2]
    alone = v.as_strided(v.shape, (v.stride(0), 1, v.stride(2), 1))
    askew = Inputs(*(x.requires_grad_() for x in (shifted, spread, alone)), given.weight_UBH, given.documents)
    assert_equals_explicit(askew, 2e-5)
    found = torch.autograd.grad(fused_attention(*askew.tensors, *askew.ranges).sum(), askew.tensors)
    expected, leaves = explicit_attention(askew)
    for name, gradient, wanted in zip(NAMES, found, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert_near(gradient, wanted, 2e-5, name)


def test_documents_of_one_token() -> None:
    case = Case(T=19, B=1, H=1, G=1, S=2, K=32, borders=tuple(range(1, 19)))
    given = inputs(case)
    assert_equals_explicit(given, 2e-5)
    alone = (1 - given.weight_UBH[..., None]) * given.v_TBGE
    assert_near(fused_attention(*given.tensors, *given.ranges), alone.double(), 1e-6, "output")


@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_give_numbers(dtype: torch.dtype, repeatable: bool) -> None:
    """Of 1e4 and more: each query reads one key, and nothing overflows, behind T neither."""
    given = inputs(Case(T=37, B=1, H=2, G=2, S=2, K=32, borders=(21,)), dtype, factor=50.0)
    found = fused_attention(*given.tensors, *given.ranges)
    expected, _ = explicit_attention(given)
    assert_near(found, expected, 1e-2, "output")
    torch.use_deterministic_algorithms(repeatable)
    try:
        gradients = torch.autograd.grad(found, given.tensors, torch.ones_like(found))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("case", [PACKED, SHARED_KEY, Case(T=35, B=1, H=2, G=1, S=2, K=32), *PARTS], ids=str)
def test_gradients_that_repeat_to_the_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kernel adds to nothing that another program adds to."""
    monkeypatch.setattr("model.kernels.fused.backward.add_rows", None)
    torch.use_deterministic_algorithms(True)
    try:
        assert_equals_explicit(inputs(case), 2e-5)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("begin", [0, 64])
@pytest.mark.parametrize("repeatable", [False, True])
def test_blocks_outside_a_document_are_not_visited(repeatable: bool, begin: int) -> None:
    """The documents before and behind hold no numbers; a masked product would still be none."""
    given = inputs(Case(T=128, B=1, H=2, G=1, S=2, K=32, borders=(32, 96), begin=begin))
    keys, queries = slice(32, 96), slice(max(32 - begin, 0), 96 - begin)
    own = queries, keys, keys, queries
    middle = Inputs(*(x.detach()[one].requires_grad_() for x, one in zip(given.tensors, own, strict=True)), None)
    direction = direction_of(explicit_attention(given)[0].float())
    with torch.no_grad():
        for tensor, one in zip((*given.tensors[:3], direction), own, strict=True):
            tensor[: one.start] = tensor[one.stop :] = torch.nan
    found = fused_attention(*given.tensors, *given.ranges)
    expected, leaves = explicit_attention(middle)
    assert_near(found[queries], expected, 2e-5, "output")
    torch.use_deterministic_algorithms(repeatable)
    try:
        gradients = torch.autograd.grad(found, given.tensors, direction)
    finally:
        torch.use_deterministic_algorithms(False)
    wanted = torch.autograd.grad(expected, leaves, direction[queries].double())
    for name, gradient, one, expected_gradient in zip(NAMES, gradients, own, wanted, strict=True):
        assert_near(gradient[one], expected_gradient, 2e-5, name)
