"""The loss of each token and its mean, from predictions whose logits are never there whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import loss
from model.kernels.rowwise import cross_entropy
from model.loss import cross_entropy_TB, mean_loss
from model.parallel import Unsharded
from model.prediction import Prediction
from model.recorder import Recorder
from tests.live_bytes import LiveBytes

T, B, D, V = 11, 3, 7, 29
LABELS_BT = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(2))


def prediction(dtype: torch.dtype = torch.float32, scale: float = 1.0, length: int = T) -> Prediction:
    generator = torch.Generator().manual_seed(1)
    shapes = (length, B, D), (V, D)
    x_TBD, weight_VD = (
        (scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes
    )
    return Prediction(x_TBD, weight_VD, Unsharded(), Recorder(), cross_entropy.WRITTEN)


@pytest.fixture(params=[1, 4, 1000], ids=lambda rows: f"{rows} rows at once")
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tokens whose logits are there at once; half of them and one are worked on in fp32 together."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", request.param * V * 4)
    monkeypatch.setattr(cross_entropy, "CPU_PIECE_ELEMENTS", (request.param // 2 + 1) * V)
    return request.param


def gradients(value: Tensor, of: Prediction) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, (of.x_TBD, of.weight_VD))


def test_each_token_costs_minus_the_log_of_its_labels_probability(rows: int) -> None:
    given = prediction()
    loss_TB = cross_entropy_TB(LABELS_BT)(given)
    probability_TBV = given.logits().double().softmax(-1)
    for t in range(T):
        for b in range(B):
            expected = -probability_TBV[t, b, LABELS_BT[b, t]].log()
            assert float(loss_TB[t, b]) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    assert not loss_TB.requires_grad
    torch.testing.assert_close(mean_loss(LABELS_BT)(given), loss_TB.mean(), rtol=0, atol=0)


def test_the_gradients_of_the_mean_are_those_of_whole_logits(rows: int) -> None:
    given = prediction()
    found = gradients(3.7 * mean_loss(LABELS_BT)(given), given)
    whole = F.cross_entropy(given.logits().double().flatten(0, 1), LABELS_BT.t().flatten())
    for mine, expected in zip(found, gradients(3.7 * whole, given), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)


def test_what_large_logits_do_to_exponentials_does_not_reach_the_loss(rows: int) -> None:
    given = prediction(scale=30.0)
    assert float(given.logits().detach().max()) > 1000
    value = mean_loss(LABELS_BT)(given)
    expected = F.cross_entropy(given.logits().double().flatten(0, 1), LABELS_BT.t().flatten())
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(value, given))


def test_bf16_logits_have_an_fp32_loss_and_sums_over_chunks_lose_nothing(rows: int) -> None:
    given, exact = (prediction(torch.bfloat16, length=50 * T) for _ in range(2))
    labels_BT = LABELS_BT.repeat(1, 50)
    value = mean_loss(labels_BT)(given)
    assert value.dtype == torch.float32
    logits_TBV = exact.x_TBD.double() @ exact.weight_VD.double().t()
    rounded_TBV = logits_TBV + (given.logits().double() - logits_TBV).detach()
    expected = F.cross_entropy(rounded_TBV.flatten(0, 1), labels_BT.t().flatten())
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    for mine, wanted in zip(gradients(value, given), gradients(expected, exact), strict=True):
        assert mine.dtype == torch.bfloat16
        assert float((mine - wanted).abs().max()) < 2**-7 * float(wanted.abs().max())


def test_nothing_is_differentiated_where_no_gradient_is_asked_for(rows: int) -> None:
    with torch.no_grad():
        assert not mean_loss(LABELS_BT)(prediction()).requires_grad


def test_the_recorder_hears_of_the_largest_logit_of_all_chunks(rows: int) -> None:
    given = prediction()
    given.recorder.open()
    mean_loss(LABELS_BT)(given)
    assert given.recorder.close()["largest_logit"].parts == given.logits().max()


def test_logits_are_there_for_one_chunk_of_tokens_at_a_time(rows: int) -> None:
    given = prediction()
    with LiveBytes([given.x_TBD, given.weight_VD, LABELS_BT]) as live:
        mean_loss(LABELS_BT)(given).backward()
    logits = 4 * V * (min(rows, T * B) + 2 * (rows // 2 + 1))
    gradients_of_both = 4 * (T * B * D + V * D)
    assert live.peak <= logits + 2 * gradients_of_both + 4 * 16 * T * B
