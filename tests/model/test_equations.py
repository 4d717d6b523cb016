"""Every kind and reading against an fp64 reference written from the equations: logits and all gradients."""

import pytest
import torch

from model.config import ModelConfig
from model.parallel import logical_parameters
from tests.model.helpers import KINDS, assert_close, build, outputs_and_gradients, probe, spread, tokens
from tests.model.reference import reference_logits

FP64 = 1e-12
VARIANTS = {
    **KINDS,
    "no head norm": ModelConfig(
        num_layers=1, hidden_size=24, num_heads=2, head_dim=8, rank=4, vocab_size=32, head_norm=False
    ),
    "lambda_init 0.5, other theta and eps": ModelConfig(
        num_layers=1,
        hidden_size=24,
        num_heads=2,
        head_dim=8,
        rank=4,
        vocab_size=32,
        lambda_init=0.5,
        rope_theta=500.0,
        norm_eps=1e-2,
    ),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_logits_and_gradients_follow_the_equations(config):
    model = build(config)
    spread(model)
    tokens_BT = tokens(config)
    logits_BTV, gradients = outputs_and_gradients(model, tokens_BT)

    weights = {name: p.detach().clone().requires_grad_() for name, p in logical_parameters(model).items()}
    expected_BTV = reference_logits(config, weights, tokens_BT)
    expected = torch.autograd.grad(probe(expected_BTV), list(weights.values()))

    assert_close(logits_BTV, expected_BTV, FP64, "logits")
    for name, gradient in zip(weights, expected, strict=True):
        assert_close(gradients[name], gradient, 1e-10, f"gradient of {name}")


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_a_model_knows_nothing_of_later_tokens(config):
    model = build(config)
    tokens_BT = tokens(config)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 7] = (changed_BT[:, 7] + 1) % config.vocab_size
    before, after = model(tokens_BT), model(changed_BT)
    assert torch.equal(before[:7], after[:7])
    assert not torch.allclose(before[7:], after[7:])
