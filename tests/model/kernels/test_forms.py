"""Every form of attention against explicit T x T maps in fp64: outputs and gradients.

Forms whose kernel needs a GPU have stand-ins here: their arrangement around torch's kernel, and a package of the same
name whose functions take the same arguments. tests/gpu runs the real ones.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.forms import explicit_maps, explicit_operator
from model.kernels.forms.arrangements import Grouped, Halves, Wide
from model.kernels.forms.base import Form
from model.kernels.forms.explicit import Explicit
from model.kernels.forms.flash2 import Flash2
from model.kernels.forms.flash3 import Flash3
from model.kernels.forms.flash4 import Flash4
from model.kernels.forms.kernel import Kernel
from model.kernels.forms.sdpa import Sdpa
from tests.model.kernels.maps import (
    assert_same,
    differential_attention,
    documents_of,
    explicit_map,
    randoms,
    softmax_attention,
)

T, B, H, K = 11, 2, 6, 4
STARTS_TB = torch.tensor([[0, 0]] * 4 + [[4, 0]] * 5 + [[4, 9]] + [[10, 9]], dtype=torch.int32)
documents = pytest.mark.parametrize("starts_TB", [None, STARTS_TB], ids=["one document", "documents"])
groups = pytest.mark.parametrize("G", [6, 2])
FORMS: list[Form] = [Explicit(), Grouped(Sdpa()), Halves(Sdpa()), Wide(Sdpa())]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of explicit maps that divide nothing, and fewer heads at once than there are."""
    monkeypatch.setattr(explicit_maps, "ROWS", 3)
    monkeypatch.setattr(explicit_operator, "ELEMENTS", 3 * 4 * T)


def prepared(form: Form, starts_TB: Tensor | None, dtype: torch.dtype = torch.float64) -> Documents | None:
    found = documents_of(starts_TB)
    return None if found is None else form.prepared(found, dtype)


@documents
@groups
@forms
def test_two_streams_of_keys(form: Form, G: int, starts_TB: Tensor | None) -> None:
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, G, 2, K), (T, B, G, 2 * K), ())
    found = form.difference(*arguments, prepared(form, starts_TB))
    assert_same(found, differential_attention(q, k, v, weight, starts_TB), arguments, arguments)


@documents
@groups
@forms
def test_keys_that_both_queries_share_and_a_weight_of_each_token(form: Form, G: int, starts_TB: Tensor | None) -> None:
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, G, 1, K), (T, B, G, K), (T, B, H, 1))
    found = form.difference(*arguments, prepared(form, starts_TB))
    assert_same(found, differential_attention(q, k, v, weight, starts_TB), arguments, arguments)


@documents
@pytest.mark.parametrize(
    "form", [Grouped(Sdpa()), Halves(Sdpa()), Wide(Sdpa()), Explicit()], ids=lambda form: form.name
)
def test_a_weight_of_each_token_with_two_streams_of_keys(form: Form, starts_TB: Tensor | None) -> None:
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, 2, 2, K), (T, B, 2, 2 * K), (T, B, H, 1))
    found = form.difference(*arguments, prepared(form, starts_TB))
    assert_same(found, differential_attention(q, k, v, weight, starts_TB), arguments, arguments)


@documents
@pytest.mark.parametrize("G", [1, 3, 6])
@forms
def test_one_map(form: Form, G: int, starts_TB: Tensor | None) -> None:
    q, k, v = arguments = randoms((T, B, 6, K), (T, B, G, K), (T, B, G, K))
    found = form.softmax(q, k, v, prepared(form, starts_TB))
    assert_same(found, softmax_attention(q, k, v, starts_TB), arguments, arguments)


@forms
@pytest.mark.parametrize("length", [1, 2])
def test_sequences_of_one_token_and_documents_of_one_token(form: Form, length: int) -> None:
    starts_TB = torch.arange(length, dtype=torch.int32)[:, None].expand(-1, B)
    q, k, v, weight = arguments = randoms((length, B, H, 2, K), (length, B, H, 2, K), (length, B, H, 2 * K), ())
    for starts in (None, starts_TB):
        found = form.difference(*arguments, prepared(form, starts))
        expected = differential_attention(q, k, v, weight, starts)
        torch.testing.assert_close(found, expected)
        gradients = torch.autograd.grad(found.sum(), arguments)
        assert all(gradient.isfinite().all() for gradient in gradients)


@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_large_logits_and_rounded_inputs(form: Form, dtype: torch.dtype) -> None:
    exact = [x.detach().to(dtype) for x in randoms((T, B, H, 2, K), (T, B, H, 2, K), (T, B, H, 2 * K))]
    exact[0] = exact[0] * 100
    weight = torch.tensor(0.4)
    found, reference = ([x.to(kind).requires_grad_() for x in exact] for kind in (dtype, torch.float64))
    out = form.difference(found[0], found[1], found[2], weight, prepared(form, STARTS_TB, dtype))
    expected = differential_attention(reference[0], reference[1], reference[2], weight.double(), STARTS_TB)
    assert out.dtype == dtype
    assert_same(out, expected, found, reference, tolerance=2e-2 if dtype == torch.bfloat16 else 2e-5)


@forms
def test_the_streams_are_subtracted_in_fp32(form: Form) -> None:
    """With lambda = 1 and equal streams nothing is left, whatever bf16 would round lambda or the outputs to."""
    q, k, v = (x.bfloat16() for x in randoms((T, B, H, 1, K), (T, B, H, 1, K), (T, B, H, 2 * K)))
    q, k = (x.expand(T, B, H, 2, K) for x in (q, k))
    close_to_one = torch.tensor(1 - 2**-12)  # rounds to 1 in bf16
    out = form.difference(q, k, v, close_to_one, None)
    assert out.dtype == torch.bfloat16
    assert out.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_rounds_nothing_within_explicit_maps(dtype: torch.dtype) -> None:
    q, k, v, weight = (x.detach().to(dtype) for x in randoms((T, B, H, 2, K), (T, B, H, 2, K), (T, B, H, 2 * K), ()))
    results = []
    for enabled in (False, True):
        arguments = [x.clone().requires_grad_() for x in (q, k, v, weight.float())]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = Explicit().difference(*arguments, None)
            results.append((out, *torch.autograd.grad(out.sum(), arguments)))
    for plain, cast in zip(*results, strict=True):
        assert torch.equal(plain, cast)


def test_explicit_maps_read_no_key_of_documents_that_no_query_of_the_block_is_in() -> None:
    form, starts_TB = Explicit(), torch.tensor([[0]] * 6 + [[6]] * 5, dtype=torch.int32)
    q, k, v, weight = (x.detach() for x in randoms((T, 1, H, 2, K), (T, 1, H, 2, K), (T, 1, H, 2 * K), ()))
    expected = differential_attention(q, k, v, weight, starts_TB)
    for x in (k, v):
        x[:6] = torch.nan
    found = form.difference(q, k, v, weight, documents_of(starts_TB))
    assert found[:6].isnan().all()
    torch.testing.assert_close(found[6:], expected[6:])


def plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """[batch, length, heads, width], causal."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    wider = q * (scale * q.shape[-1] ** 0.5)
    return softmax_attention(wider, k, v, None).transpose(0, 1)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    """[tokens, heads, width]; sequences begin at ``bounds``."""
    assert bounds.dtype == torch.int32 and longest == bounds.diff().max()
    pieces = [plain_attention(q[None, a:b], k[None, a:b], v[None, a:b], scale)[0] for a, b in pairwise(bounds)]
    return torch.cat(pieces)


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, causal: bool) -> Tensor:
    assert causal
    return plain_attention(q, k, v, softmax_scale)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float,
    causal: bool,
) -> Tensor:
    assert causal and torch.equal(cu_seqlens_q, cu_seqlens_k) and max_seqlen_q == max_seqlen_k
    return packed_attention(q, k, v, cu_seqlens_q, max_seqlen_q, softmax_scale)


def with_log_sums(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    return lambda *arguments, **named: (function(*arguments, **named), None)


@pytest.fixture(params=[Flash2, Flash3, Flash4], ids=lambda kernel: kernel.name)
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A kernel whose package is there, as functions that compute the same on the CPU."""
    kernel = request.param()
    names = {"flash2": "flash_attn", "flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}
    module = ModuleType(names[kernel.name])
    for function in (flash_attn_func, flash_attn_varlen_func):
        setattr(module, function.__name__, with_log_sums(function) if kernel.name == "flash4" else function)
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield kernel


@documents
def test_the_packages_of_flash_attention_are_called_as_they_want(stand_in: Kernel, starts_TB: Tensor | None) -> None:
    form = Grouped(stand_in)
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, 2, 2, K), (T, B, 2, 2 * K), ())
    found = form.difference(*arguments, prepared(form, starts_TB))
    assert_same(found, differential_attention(q, k, v, weight, starts_TB), arguments, arguments)


def test_the_explicit_maps_of_these_tests_are_masked() -> None:
    q, k = randoms((T, B, H, K), (T, B, H, K))
    assert (explicit_map(q, k, STARTS_TB) > 0).sum() < (explicit_map(q, k, None) > 0).sum() == B * H * T * (T + 1) / 2
