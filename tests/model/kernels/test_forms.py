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
parts = pytest.mark.parametrize(("begin", "end"), [(5, 10), (9, 11), (10, 11), (0, 7)])
"""of STARTS_TB's documents: across borders, beside others that end before and begin behind, of one token"""
FORMS: list[Form] = [Explicit(), Grouped(Sdpa()), Halves(Sdpa()), Wide(Sdpa())]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of explicit maps that divide nothing, and fewer heads at once than there are."""
    monkeypatch.setattr(explicit_maps, "ROWS", 3)
    monkeypatch.setattr(explicit_operator, "ELEMENTS", 3 * 4 * T)


def prepared(
    form: Form, starts_TB: Tensor | None, dtype: torch.dtype = torch.float64, part: tuple[int, int] | None = None
) -> Documents | None:
    found = documents_of(starts_TB)
    if found is None:
        return None
    return form.prepared(found if part is None else found.part(*part), dtype)


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


@documents
@parts
@forms
def test_queries_of_a_part_with_two_streams_of_keys(form: Form, begin: int, end: int, starts_TB: Tensor | None) -> None:
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, 3, 2, K), (T, B, 3, 2 * K), ())
    inside = prepared(form, starts_TB, part=(begin, end))
    found = form.difference(q[begin:end], k[:end], v[:end], weight, inside)
    expected = differential_attention(q, k, v, weight, starts_TB)[begin:end]
    assert_same(found, expected, arguments, arguments)


@documents
@parts
@forms
def test_queries_of_a_part_that_share_a_key_and_have_weights_of_their_own(
    form: Form, begin: int, end: int, starts_TB: Tensor | None
) -> None:
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, 2, 1, K), (T, B, 2, K), (T, B, H, 1))
    inside = prepared(form, starts_TB, part=(begin, end))
    found = form.difference(q[begin:end], k[:end], v[:end], weight[begin:end], inside)
    expected = differential_attention(q, k, v, weight, starts_TB)[begin:end]
    assert_same(found, expected, arguments, arguments)


@documents
@parts
@forms
def test_queries_of_a_part_of_one_map(form: Form, begin: int, end: int, starts_TB: Tensor | None) -> None:
    q, k, v = arguments = randoms((T, B, 6, K), (T, B, 3, K), (T, B, 3, K))
    found = form.softmax(q[begin:end], k[:end], v[:end], prepared(form, starts_TB, part=(begin, end)))
    assert_same(found, softmax_attention(q, k, v, starts_TB)[begin:end], arguments, arguments)


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


@pytest.mark.parametrize("begin", [0, 6, 7])
def test_explicit_maps_read_no_key_of_documents_that_no_query_of_the_block_is_in(begin: int) -> None:
    form, starts_TB = Explicit(), torch.tensor([[0]] * 6 + [[6]] * 5, dtype=torch.int32)
    q, k, v, weight = (x.detach() for x in randoms((T, 1, H, 2, K), (T, 1, H, 2, K), (T, 1, H, 2 * K), ()))
    expected = differential_attention(q, k, v, weight, starts_TB)
    for x in (k, v):
        x[:6] = torch.nan
    found = form.difference(q[begin:], k, v, weight, prepared(form, starts_TB, part=(begin, T)))
    second = max(6 - begin, 0)
    assert found[:second].isnan().all()
    torch.testing.assert_close(found[second:], expected[begin + second :])


def plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """[batch, length, heads, width], causal, the last query being the last key's."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    before = k.shape[0] - q.shape[0]
    others = q.new_zeros(before, *q.shape[1:])
    wider = torch.cat([others, q * (scale * q.shape[-1] ** 0.5)])
    return softmax_attention(wider, k, v, None)[before:].transpose(0, 1)


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
    """[tokens, heads, width]; sequences begin at ``cu_seqlens_q`` and ``cu_seqlens_k``."""
    assert causal and cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    queries, keys = cu_seqlens_q.diff(), cu_seqlens_k.diff()
    assert max_seqlen_q >= queries.max() and max_seqlen_k == keys.max()
    assert max_seqlen_q > 1 or (queries == 1).all(), "flash-attn 2 gives every sequence one query then"
    pieces = []
    for (a, b), (c, d) in zip(pairwise(cu_seqlens_q), pairwise(cu_seqlens_k), strict=True):
        pieces.append(plain_attention(q[None, a:b], k[None, c:d], v[None, c:d], softmax_scale)[0])
    return torch.cat(pieces)


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
@pytest.mark.parametrize(("begin", "end"), [(0, T), (5, 10), (10, 11)])
def test_the_packages_of_flash_attention_are_called_as_they_want(
    stand_in: Kernel, begin: int, end: int, starts_TB: Tensor | None
) -> None:
    form = Grouped(stand_in)
    q, k, v, weight = arguments = randoms((T, B, H, 2, K), (T, B, 2, 2, K), (T, B, 2, 2 * K), ())
    inside = prepared(form, starts_TB, part=(begin, end))
    found = form.difference(q[begin:end], k[:end], v[:end], weight, inside)
    expected = differential_attention(q, k, v, weight, starts_TB)[begin:end]
    assert_same(found, expected, arguments, arguments)


def test_the_explicit_maps_of_these_tests_are_masked() -> None:
    q, k = randoms((T, B, H, K), (T, B, H, K))
    assert (explicit_map(q, k, STARTS_TB) > 0).sum() < (explicit_map(q, k, None) > 0).sum() == B * H * T * (T + 1) / 2
