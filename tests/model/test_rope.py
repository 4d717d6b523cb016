"""Rotary positions: relative, restarting at documents, precise; scaled as transformers scales them."""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from common.errors import InputError
from model.config import ModelConfig
from model.kernels.rowwise.rotary import WRITTEN as rotate
from model.rope import positions_TB, rotary_angles
from model.rope_scaling import RopeScaling


def test_scores_depend_on_the_distance_only():
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    angles = rotary_angles(torch.arange(20)[:, None], 8, 10000.0, torch.float64)
    queries, keys = (rotate(x.expand(20, 1, 8), angles)[:, 0] for x in (q, k))
    scores = queries @ keys.T
    for distance in range(5):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=0, atol=1e-12)
    assert not torch.allclose(scores.diagonal(0)[0], scores.diagonal(-1)[0])


def test_position_zero_is_not_rotated():
    x = torch.randn(1, 2, 3, 8)
    assert torch.equal(rotate(x, rotary_angles(torch.zeros(1, 1), 8, 10000.0, x.dtype)), x)


def test_positions_restart_at_document_starts():
    starts_TB = torch.tensor([[0, 0], [0, 1], [2, 1], [2, 1]], dtype=torch.int32)
    assert positions_TB(torch.arange(4), starts_TB).tolist() == [[0, 0], [1, 0], [0, 1], [1, 2]]
    assert positions_TB(torch.arange(3), None).tolist() == [[0], [1], [2]]


def test_angles_of_bf16_activations_are_fp32():
    cos, sin = rotary_angles(torch.tensor([[4097]]), 8, 10000.0, torch.bfloat16)
    assert cos.dtype == sin.dtype == torch.float32
    assert abs(float(cos[0, 0, 0]) - float(torch.tensor(4097.0, dtype=torch.float64).cos())) < 1e-6
    assert rotate(torch.ones(1, 1, 8, dtype=torch.bfloat16), (cos, sin)).dtype == torch.bfloat16


SCALED = {
    "linear": RopeScaling("linear", 3.7),
    "yarn": RopeScaling("yarn", 16.0, 4096),
    "yarn-own-ramp": RopeScaling("yarn", 5.3, 700, beta_fast=11.0, beta_slow=2.5, attention_factor=1.9),
    "yarn-no-ramp": RopeScaling("yarn", 4.0, 6),
}


@pytest.mark.parametrize("head_dim", [8, 26, 128])
@pytest.mark.parametrize("scaling", SCALED.values(), ids=SCALED)
def test_scaled_frequencies_and_amplitude_are_those_of_transformers(scaling: RopeScaling, head_dim: int):
    parameters = {"rope_type": scaling.kind, "rope_theta": 7000.0, "factor": scaling.factor}
    if scaling.kind == "yarn":
        parameters["original_max_position_embeddings"] = scaling.original_length
        parameters |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        parameters["attention_factor"] = scaling.attention_factor
    config = LlamaConfig(head_dim=head_dim, rope_parameters=parameters)
    frequencies, amplitude = ROPE_INIT_FUNCTIONS[scaling.kind](config)
    positions = torch.tensor([[0], [1], [701], [65_521]])
    expected = positions[..., None].double() * frequencies.double()
    cos, sin = rotary_angles(positions, head_dim, 7000.0, torch.float64, scaling)
    # The frequencies there are fp32: an angle of 65,521 radians is known to 65,521 * 2^-24.
    torch.testing.assert_close(cos, expected.cos() * amplitude, rtol=0, atol=0.016)
    torch.testing.assert_close(sin, expected.sin() * amplitude, rtol=0, atol=0.016)
    torch.testing.assert_close(cos[:3], expected.cos()[:3] * amplitude, rtol=0, atol=2e-4)
    assert cos[0, 0].tolist() == pytest.approx([amplitude] * (head_dim // 2))


def test_yarn_in_words():
    """Of 64 pairs, the fast ones stand, the slow ones turn s times slower, and the usual amplitude is 0.1 ln s + 1."""
    one = torch.ones(1, 1)
    trained, scaled = (
        torch.atan2(*reversed(rotary_angles(one, 128, 10000.0, torch.float64, scaling)))[0, 0]
        for scaling in (RopeScaling(), RopeScaling("yarn", 16.0, 4096))
    )
    turns = 4096 * trained / (2 * math.pi)
    torch.testing.assert_close(scaled[turns > 33], trained[turns > 33], rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled[turns < 0.9], trained[turns < 0.9] / 16, rtol=1e-12, atol=0)
    between = scaled[(turns < 31) & (turns > 1.1)] / trained[(turns < 31) & (turns > 1.1)]
    assert between.numel() > 10
    assert (between.diff() < 0).all()
    assert RopeScaling("yarn", 16.0, 4096).amplitude == pytest.approx(0.1 * math.log(16) + 1)


def test_ntk_slows_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    one = torch.ones(1, 1)
    trained, scaled = (
        torch.atan2(*reversed(rotary_angles(one, 22, 500.0, torch.float64, scaling)))[0, 0]
        for scaling in (RopeScaling(), RopeScaling("ntk", 6.5))
    )
    assert scaled[0] == trained[0] == pytest.approx(1)
    assert float(trained[-1] / scaled[-1]) == pytest.approx(6.5)
    other_base = rotary_angles(one * 91, 22, 500.0 * 6.5 ** (22 / 20), torch.float64)
    torch.testing.assert_close(rotary_angles(one * 91, 22, 500.0, torch.float64, RopeScaling("ntk", 6.5)), other_base)


def test_the_gradient_through_an_amplitude_is_that_of_what_is_computed():
    x = torch.randn(5, 1, 6, dtype=torch.float64, requires_grad=True)
    angles = rotary_angles(torch.arange(5)[:, None] * 37, 6, 100.0, torch.float64, SCALED["yarn-own-ramp"])
    assert torch.autograd.gradcheck(lambda x: rotate(x, angles), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "none", "factor": 2.0}, "factor: is 2.0, which only linear, ntk and yarn read; .*kind is none"),
        ({"kind": "linear", "original_length": 9}, "original_length: is 9, which only yarn reads; .*kind is linear"),
        ({"kind": "yarn", "factor": 2.0}, "original_length: yarn needs it"),
        ({"kind": "linear", "factor": 0.5}, "factor: must be at least 1"),
        ({"kind": "yarn", "original_length": 64, "beta_fast": 1.0}, "beta_fast: must be above beta_slow"),
    ],
)
def test_scalings_without_meaning_are_named(settings: dict, message: str):
    with pytest.raises(InputError, match=r"model\.rope_scaling\." + message):
        RopeScaling(**settings)


def test_a_model_whose_positions_cannot_be_scaled_so_is_named():
    with pytest.raises(InputError, match=r"model\.rope_scaling\.kind: ntk .*head_dim 2"):
        ModelConfig(head_dim=2, rope_scaling=RopeScaling("ntk", 2.0))
    with pytest.raises(InputError, match=r"yarn needs .* model\.rope_theta above 1, is 1"):
        ModelConfig(rope_theta=1.0, rope_scaling=SCALED["yarn"])
