"""Shared DIFF is DIFF with merged matrices: for all four readings, logits and what the gradients imply."""

import dataclasses

import pytest
import torch

from model.config import ModelConfig
from model.parallel import logical_parameters
from model.shared_projection import merged_weight
from tests.model.helpers import READINGS, TINY, assert_close, build, outputs_and_gradients, spread, tokens


@pytest.mark.parametrize(("base", "down"), READINGS)
def test_shared_diff_equals_diff_with_merged_matrices(base, down):
    config = ModelConfig(attention="shared_diff", base=base, down=down, **TINY)
    shared = build(config)
    spread(shared)
    plain = build(dataclasses.replace(config, attention="diff"))
    weights, merged = logical_parameters(shared), logical_parameters(plain)
    with torch.no_grad():
        for name, parameter in merged.items():
            parameter.copy_(weights[name] if name in weights else merge(weights, name))

    logits, gradients = outputs_and_gradients(shared, tokens(config))
    expected_logits, merged_gradients = outputs_and_gradients(plain, tokens(config))

    assert_close(logits, expected_logits, 1e-12, "logits")
    for layer in range(config.num_layers):
        for which in ("query", "key"):
            prefix = f"blocks.{layer}.attention.{which}"
            factors = [weights[f"{prefix}{part}"] for part in ("_base.weight", "_down", "_up")]
            implied = torch.autograd.grad(merged_weight(*factors), factors, merged_gradients[f"{prefix}.weight"])
            for part, gradient in zip(("_base.weight", "_down", "_up"), implied, strict=True):
                assert_close(gradients[f"{prefix}{part}"], gradient, 1e-10, f"gradient of {prefix}{part}")


def merge(weights, name):
    prefix = name.removesuffix(".weight")
    return merged_weight(weights[f"{prefix}_base.weight"], weights[f"{prefix}_down"], weights[f"{prefix}_up"])
