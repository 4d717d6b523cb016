"""Initial values: a pure function of (seed, name), distributed as the table says."""

import dataclasses
import math

import pytest
import torch

from model.config import ModelConfig
from model.init import initial_value
from model.layers import build_layers
from model.parallel import Unsharded, info_of, logical_parameters
from tests.model.helpers import KINDS, READINGS, build

GOLDEN = [[-0.7515293, 0.3611992, 0.2879622], [-0.6093883, -2.7717981, -1.1145447]]
CONFIG = ModelConfig(num_layers=8, hidden_size=256, ffn_hidden_size=512, num_heads=4, head_dim=64, rank=32)


def test_values_depend_on_seed_and_name_only():
    config = KINDS["shared_diff-layer-layer"]
    first, again, other = (logical_parameters(build(config, seed=seed)) for seed in (1, 1, 2))
    random = [name for name in first if "norm" not in name]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in random)
    values = {float(first[name].flatten()[0]) for name in random}
    assert len(values) == len(random)


def test_a_layer_built_alone_has_the_values_it_has_in_the_model():
    config = KINDS["diff"]
    model = logical_parameters(build(config, dtype=torch.float32))
    alone = {layer.name: layer for layer in build_layers(config, Unsharded(), seed=1)}["blocks.1"].build()
    for name, parameter in logical_parameters(alone).items():
        assert torch.equal(parameter, model[name])


def test_values_are_those_of_earlier_releases():
    diff = dataclasses.replace(CONFIG, attention="diff")
    value = initial_value("blocks.0.attention.query.weight", (2, 3), diff, seed=1234)
    torch.testing.assert_close(value / math.sqrt(2 / (5 * 256)), torch.tensor(GOLDEN), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "shape", "std"),
    [
        ("embedding.weight", (1024, 256), 0.039528),
        ("head.weight", (1024, 256), 0.039528),
        ("blocks.3.attention.query.weight", (512, 256), 0.039528),
        ("blocks.3.attention.output.weight", (256, 512), 0.039528 / 4),
        ("blocks.3.attention.query_base.weight", (256, 256), 0.027951),
        ("blocks.3.attention.key_up", (4, 2, 64, 32), 0.125),
        ("blocks.3.ffn.down.weight", (256, 512), 0.039528 / 4),
        ("blocks.3.attention.lambda_q1", (4096,), 0.1),
    ],
)
def test_standard_deviations_follow_the_table(name, shape, std):
    config = dataclasses.replace(CONFIG, attention="diff") if ".query." in name else CONFIG
    value = initial_value(name, shape, config, seed=7)
    assert float(value.std()) == pytest.approx(std, rel=0.02)
    assert abs(float(value.mean())) < 5 * std / math.sqrt(value.numel())


def test_norms_start_at_one():
    for parameter_name in ("final_norm.weight", "blocks.0.ffn_norm.weight", "blocks.0.attention.head_norm.weight"):
        assert torch.equal(initial_value(parameter_name, (8,), CONFIG, seed=1), torch.ones(8))


@pytest.mark.parametrize(("base", "down"), READINGS)
def test_the_updates_bring_half_of_the_variance_and_the_streams_correlate_by_half(base, down):
    H, K, R, D = CONFIG.num_heads, CONFIG.head_dim, CONFIG.rank, CONFIG.hidden_size
    prefix = "blocks.0.attention.query"
    width = K if base == "layer" else H * K
    shape = (2, R, D) if down == "layer" else (H, 2, R, D)
    base_weight = initial_value(f"{prefix}_base.weight", (width, D), CONFIG, seed=3).view(-1, 1, K, D)
    A = initial_value(f"{prefix}_down", shape, CONFIG, seed=3)
    B = initial_value(f"{prefix}_up", (H, 2, K, R), CONFIG, seed=3)
    update = B @ A
    whole = base_weight + update
    assert float(update.var() / whole.var()) == pytest.approx(0.5, abs=0.03)
    assert float(whole.var()) == pytest.approx(2 / (5 * D), rel=0.04)
    first, second = whole.unbind(1)
    assert float((first * second).mean() / whole.var()) == pytest.approx(0.5, abs=0.05)


def test_the_meta_device_allocates_and_generates_nothing():
    huge = ModelConfig(num_layers=2, hidden_size=65536, ffn_hidden_size=262144, vocab_size=1_000_000)
    for layer in build_layers(huge, Unsharded(), seed=1, device="meta"):
        for parameter in layer.build().parameters():
            assert parameter.is_meta
            assert tuple(parameter.shape) == info_of(parameter).full_shape
