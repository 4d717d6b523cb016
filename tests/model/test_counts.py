"""Counts by formula equal those of the built model; sizes of the papers come out."""

import dataclasses

import pytest

from model.config import ModelConfig
from model.counts import attention_parameters, block_flops, parameter_counts, training_flops_per_token
from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded
from tests.model.helpers import KINDS


@pytest.mark.parametrize("head_norm", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_counts_equal_the_built_model(config, tied, head_norm):
    config = dataclasses.replace(config, tie_embeddings=tied, head_norm=head_norm)
    model = LanguageModel(build_layers(config, Unsharded(), seed=1, device="meta"))
    assert sum(parameter_counts(config).values()) == sum(p.numel() for p in model.parameters())


def test_the_papers_diff_sizes_come_out():
    """DIFF paper, table of model sizes: 830M and 13.1B, with tied embeddings and 100,288 entries."""
    small = ModelConfig(
        attention="diff",
        num_layers=24,
        hidden_size=1536,
        ffn_hidden_size=4096,
        num_heads=8,
        head_dim=96,
        vocab_size=100_288,
    )
    large = dataclasses.replace(
        small, num_layers=40, hidden_size=5120, ffn_hidden_size=13_653, num_heads=20, head_dim=128
    )
    assert sum(parameter_counts(small).values()) == pytest.approx(830e6, rel=0.01)
    assert sum(parameter_counts(large).values()) == pytest.approx(13.1e9, rel=0.01)


def test_query_and_key_parameters_of_each_reading():
    """2DK or 2DHK for the bases, 4R(D + HK) or 4HR(D + K) for the updates, against 4DHK of DIFF."""
    D, H, K, R = 2880, 14, 104, 256
    sizes = {"hidden_size": D, "num_heads": H, "head_dim": K, "rank": R}
    for base, base_count in (("layer", 2 * D * K), ("head", 2 * D * H * K)):
        for down, update_count in (("layer", 4 * R * (D + H * K)), ("head", 4 * H * R * (D + K))):
            parts = attention_parameters(ModelConfig(base=base, down=down, **sizes))
            assert parts["query and key base"] == base_count
            assert parts["query and key updates"] == update_count
    assert attention_parameters(ModelConfig(attention="diff", **sizes))["query and key"] == 4 * D * H * K


def test_flops_of_the_standard_model_are_the_usual_six_per_parameter_and_twelve_per_score():
    config = ModelConfig(
        attention="standard", num_layers=3, hidden_size=64, ffn_hidden_size=128, num_heads=2, head_dim=16
    )
    matrices = 3 * (4 * 64 * 64 + 3 * 64 * 128) + 64 * config.vocab_size
    assert training_flops_per_token(config, sequence_length=32) == 6 * matrices + 12 * 3 * 32 * 64


def test_the_equation_of_differential_attention_costs_what_the_matched_models_does():
    sizes = {"hidden_size": 64, "num_heads": 2, "head_dim": 16}
    longer = {
        kind: block_flops(ModelConfig(attention=kind, **sizes), 65)
        - block_flops(ModelConfig(attention=kind, **sizes), 64)
        for kind in ("standard", "diff", "shared_diff", "diff_v2")
    }
    assert set(longer.values()) == {8 * 2 * 16}
