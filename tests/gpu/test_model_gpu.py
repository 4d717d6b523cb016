"""On a GPU: kernels and whole models in bf16 and fp32 against their twins on the CPU, and no waiting for the device."""

import pytest
import torch

from model.block import kernels_of
from model.documents import Documents
from model.kernels.forms.base import PLAIN, SHARED_KEYS, TWO_STREAMS, Case, Form
from model.kernels.forms.registry import FORMS, form_named
from model.kernels.machine import Machine
from model.layers import LanguageModel
from model.recorder import Recorder
from tests.model.helpers import KINDS, assert_close, build, spread, tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
T, B, H = 192, 2, 3
STARTS_TB = torch.tensor([[0, 0]] * 70 + [[70, 0]] * 30 + [[70, 100]] * 92, dtype=torch.int32)
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
documents = pytest.mark.parametrize("starts_TB", [None, STARTS_TB], ids=["one document", "documents"])


def compare_with_cpu(function, shapes, dtype):
    """``function`` of random tensors: on the GPU in ``dtype`` against the CPU in fp64, outputs and gradients."""
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    exact = [x.double().requires_grad_() for x in values]
    found = [x.cuda().requires_grad_() for x in values]
    expected_out, out = function(*exact), function(*found)
    direction = torch.randn(expected_out.shape, generator=generator)
    (expected_out * direction.double()).sum().backward()
    (out * direction.to(dtype).cuda()).sum().backward()
    assert_close(out.cpu().double(), expected_out, TOLERANCE[dtype], "output")
    for index, (x, reference) in enumerate(zip(found, exact, strict=True)):
        assert_close(x.grad.cpu().double(), reference.grad, 2 * TOLERANCE[dtype], f"gradient of argument {index}")


def usable(form: Form, maps, dtype, head_dim) -> None:
    """Skips where this GPU, or what is installed beside it, cannot run ``form``."""
    reason = form.refusal(Case(Machine.here("cuda"), dtype, maps, head_dim, T))
    if reason is not None:
        pytest.skip(f"{form.name} {reason}")


def on_either(form: Form, x, starts_TB) -> tuple[Form, Documents | None]:
    """On the GPU ``form``, on the CPU the one that the others are compared with; and the documents it reads."""
    here = form if x.is_cuda else form_named("sdpa")
    if starts_TB is None:
        return here, None
    return here, here.prepared(Documents.of(starts_TB.t()).to(x.device), x.dtype)


@documents
@both_dtypes
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("groups", [H, 1])
@pytest.mark.parametrize("head_dim", [32, 64, 88, 104, 128])
def test_two_streams_of_keys(head_dim, groups, form, dtype, starts_TB):
    usable(form, TWO_STREAMS, dtype, head_dim)

    def attend(q, k, v):
        here, inside = on_either(form, q, starts_TB)
        weight = torch.tensor(0.4, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
        return here.difference(q, k, v, weight, inside)

    shapes = [(T, B, H, 2, head_dim), (T, B, groups, 2, head_dim), (T, B, groups, 2 * head_dim)]
    compare_with_cpu(attend, shapes, dtype)


@documents
@both_dtypes
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_keys_that_both_queries_share_and_a_weight_of_each_token(form, dtype, starts_TB):
    usable(form, SHARED_KEYS, dtype, 64)

    def attend(q, k, v, weight):
        here, inside = on_either(form, q, starts_TB)
        return here.difference(q, k, v, weight.to(torch.promote_types(q.dtype, torch.float32)), inside)

    compare_with_cpu(attend, [(T, B, H, 2, 64), (T, B, 1, 1, 64), (T, B, 1, 64), (T, B, H, 1)], dtype)


@documents
@both_dtypes
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_one_map(form, dtype, starts_TB):
    usable(form, PLAIN, dtype, 64)

    def attend(q, k, v):
        here, inside = on_either(form, q, starts_TB)
        return here.softmax(q, k, v, inside)

    compare_with_cpu(attend, [(T, B, 6, 64), (T, B, 3, 64), (T, B, 3, 64)], dtype)


@both_dtypes
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_models_compute_what_they_compute_on_the_cpu(config, dtype):
    exact = build(config, dtype=torch.float64)
    found = build(config, dtype=dtype, device="cuda")
    spread(exact)
    with torch.no_grad():
        for parameter, reference in zip(found.parameters(), exact.parameters(), strict=True):
            parameter.copy_(reference)
    tokens_BT = tokens(config, length=64)
    logits_TBV, expected_TBV = found(tokens_BT.cuda()), exact(tokens_BT)
    error = (logits_TBV.cpu().double() - expected_TBV).std() / expected_TBV.std()
    assert error < (0.05 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_step_never_waits_for_the_gpu_recorded_or_not(config, recompute):
    recorder = Recorder()
    options = {"device": "cuda", "activation_checkpointing": recompute, "recorder": recorder}
    model: LanguageModel = build(config, dtype=torch.bfloat16, **options)
    tokens_BT = tokens(config, length=64)
    documents = Documents.of((torch.arange(64, dtype=torch.int32) // 13 * 13).expand(tokens_BT.shape)).pinned()
    tokens_BT = tokens_BT.pin_memory()

    def step():
        entering = tokens_BT.to("cuda", non_blocking=True), documents.to(torch.device("cuda"))
        model(entering).float().square().mean().backward()
        recorder.open()
        model(entering[0]).float().square().mean().backward()
        model(entering).float().square().mean().backward()
        return recorder.close()

    step()  # kernels are chosen and loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        entries = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert entries and all(entry.parts.isfinite().all() for entry in entries.values())


def test_what_is_in_use_can_be_told():
    kernels = kernels_of(build(KINDS["diff"], dtype=torch.bfloat16, device="cuda"))
    assert kernels.attention.title
    assert not kernels.notes or torch.cuda.get_device_name() in kernels.notes[0]
