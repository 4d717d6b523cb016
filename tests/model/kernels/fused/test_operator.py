"""The operator within torch: compiled, recomputed, under autocast, and refused."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from common.errors import InputError
from model.kernels.forms.base import Heads, Maps
from model.kernels.forms.fused import Fused
from model.kernels.fused import launch
from model.kernels.fused.operator import fused_attention
from model.kernels.fused.views import aligned
from tests.model.kernels.fused.maps import Case, assert_near, explicit_attention, inputs

CASE = Case(T=19, B=2, H=2, G=1, S=2, K=32, borders=(7,))


def test_torch_finds_the_registration_complete() -> None:
    given = inputs(CASE)
    torch.library.opcheck(torch.ops.shared_diff.fused_attention.default, (*given.tensors, *given.ranges, 0.2))


def test_compiled_as_a_whole() -> None:
    given = inputs(CASE)

    def loss(q, k, v, weight, starts, ends):
        return (fused_attention(2 * q, k, v, weight, starts, ends) * v.sum()).sum()

    expected = loss(*given.tensors, *given.ranges)
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(*given.tensors, *given.ranges)
    assert torch.equal(found, expected)
    for gradient, wanted in zip(
        torch.autograd.grad(found, given.tensors), torch.autograd.grad(expected, given.tensors), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_recomputed() -> None:
    given = inputs(CASE)
    arguments = (*given.tensors, *given.ranges)
    expected = torch.autograd.grad(fused_attention(*arguments).square().sum(), given.tensors)
    again = checkpoint(fused_attention, *arguments, use_reentrant=False).square().sum()
    for found, wanted in zip(torch.autograd.grad(again, given.tensors), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_stands_for_several_rows_is_copied_for_the_hardware() -> None:
    one = torch.randn(5, 1, 2, 2, 32)
    several = one.expand(5, 3, 2, 2, 32)
    assert 0 not in aligned(several).stride() and torch.equal(aligned(several), several)
    assert aligned(one).data_ptr() == one.data_ptr()


@pytest.mark.parametrize("S", [1, 2])
@pytest.mark.parametrize("begin", [0, 6])
def test_the_form_accounts_for_what_the_backward_pass_makes(S: int, begin: int) -> None:
    given = inputs(Case(T=19, B=2, H=6, G=3, S=S, K=32, begin=begin), torch.bfloat16)
    scale = 0.2
    _, kept = launch.forward(*given.tensors, None, scale)
    out, _, log_sums = kept
    _, (dq, *gradients) = launch.backward(out, *given.tensors, None, None, *kept, scale, repeatable=False)
    deltas, rounded, d_out = torch.empty_like(log_sums), dq.bfloat16(), out
    made = sum(x.numel() * x.element_size() for x in (dq, rounded, *gradients, deltas, d_out))
    heads = Heads(Maps(queries=2, keys=S), heads=6, groups=3, head_dim=32)
    assert Fused().workspace(heads, sequences=2, queries=19 - begin, keys=19, element_bytes=2) == made


def test_autocast_rounds_all_but_lambda() -> None:
    given = inputs(CASE)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused_attention(*given.tensors, *given.ranges)
    assert out.dtype == torch.bfloat16
    halves = (x.bfloat16() for x in given.tensors[:3])
    assert torch.equal(out, fused_attention(*halves, given.weight_UBH, *given.ranges))
    assert_near(out, explicit_attention(given)[0], 3e-2, "output")
    gradients = torch.autograd.grad(out.float().square().sum(), given.tensors)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 4


def test_one_lambda_for_all_gets_the_sum_of_its_gradients() -> None:
    given = inputs(CASE)
    weight = torch.tensor(0.7, requires_grad=True)
    out = fused_attention(*given.tensors[:3], weight.expand(19, 2, 2), *given.ranges)
    (found,) = torch.autograd.grad(out.sum(), weight)
    given.weight_UBH = weight.detach().expand(19, 2, 2)
    expected, leaves = explicit_attention(given)
    assert_near(found, torch.autograd.grad(expected.sum(), leaves[3])[0].sum(), 1e-5, "gradient")


def test_a_second_derivative_is_refused() -> None:
    given = inputs(CASE)
    out = fused_attention(*given.tensors, *given.ranges)
    (gradient,) = torch.autograd.grad(out.square().sum(), given.q_UBHSK, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(gradient.sum(), given.q_UBHSK)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"q": (19, 2, 3, 2, 32), "weight": (19, 2, 3), "k": (19, 2, 2, 2, 32), "v": (19, 2, 2, 64)}, "multiple of G"),
        ({"q": (19, 2, 2, 1, 32)}, r"q is torch.float32 \[19, 2, 2, 1, 32\]"),
        ({"v": (19, 2, 1, 32)}, r"v is torch.float32 \[19, 2, 1, 32\]; .* torch.float32 \[19, 2, 1, 64\]"),
        ({"weight": ()}, r"weight is torch.float32 \[\]"),
        ({"q": (20, 2, 2, 2, 32), "weight": (20, 2, 2)}, "20 queries for 19 keys"),
        ({"q": (19, 2, 2, 2, 36), "k": (19, 2, 1, 2, 36), "v": (19, 2, 1, 72)}, "K is 36"),
        ({"q": (19, 2, 2, 2, 136), "k": (19, 2, 1, 2, 136), "v": (19, 2, 1, 272)}, "K is 136"),
    ],
    ids=lambda value: "",
)
def test_what_no_kernel_takes_is_refused_by_name(changed: dict[str, tuple[int, ...]], said: str) -> None:
    shapes = {"q": (19, 2, 2, 2, 32), "k": (19, 2, 1, 2, 32), "v": (19, 2, 1, 64), "weight": (19, 2, 2)} | changed
    with pytest.raises(InputError, match=said):
        fused_attention(*(torch.ones(shape) for shape in shapes.values()))


def test_documents_are_refused_without_their_ends_and_a_scale_that_turns_logits_round() -> None:
    given = inputs(CASE)
    with pytest.raises(InputError, match="both starts and ends"):
        fused_attention(*given.tensors, given.ranges[0])
    with pytest.raises(InputError, match="positive"):
        fused_attention(*given.tensors, scale=-1.0)
