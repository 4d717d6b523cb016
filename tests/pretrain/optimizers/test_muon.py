"""Muon against a loop written from its equations: SVD in the place of Newton-Schulz, fp64, no engine."""

import math
from dataclasses import replace

import pytest
import torch

from common.errors import InputError
from model.config import ModelConfig
from model.layers import LanguageModel, build_layers
from model.parallel import ParameterInfo, Unsharded, info_of
from pretrain.checks import check_run
from pretrain.config import ParallelConfig, RunConfig
from pretrain.optimizers.base import HeldPart, Place, Surroundings
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.gate import Gate
from pretrain.optimizers.muon import Muon
from pretrain.topology import plan_topology
from tests.model.helpers import KINDS as MODELS
from tests.pretrain.optimizers.test_newton_schulz import scalar

SETTINGS = OptimizerConfig(kind="muon", learning_rate=0.02, momentum=0.8, weight_decay=0.3, beta1=0.7, beta2=0.9)
RATES = (0.02, 0.05, 0.01)


def muon_step(weight: torch.Tensor, momentum: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
    """In place, one matrix."""
    momentum.copy_(SETTINGS.momentum * momentum + gradient)
    left, values, right = torch.linalg.svd(gradient + SETTINGS.momentum * momentum, full_matrices=False)
    orthogonal = left @ torch.diag(scalar(values / values.norm())) @ right
    update = 0.2 * math.sqrt(max(weight.shape)) * orthogonal + SETTINGS.weight_decay * weight
    weight.sub_(rate * update)


def adamw_step(weight, first, second, gradient, rate: float, step: int, decay: float) -> None:
    """In place; Loshchilov and Hutter, algorithm 2."""
    first.copy_(SETTINGS.beta1 * first + (1 - SETTINGS.beta1) * gradient)
    second.copy_(SETTINGS.beta2 * second + (1 - SETTINGS.beta2) * gradient**2)
    update = first / (1 - SETTINGS.beta1**step) / ((second / (1 - SETTINGS.beta2**step)).sqrt() + SETTINGS.eps)
    weight.sub_(rate * (update + decay * weight))


@pytest.mark.parametrize("name", ["shared_diff-layer-layer", "shared_diff-head-head", "diff_v2"])
def test_steps_are_those_of_the_equations(name: str) -> None:
    config = replace(MODELS[name], tie_embeddings=False)
    parameters = list(LanguageModel(build_layers(config, Unsharded(), seed=3, dtype=torch.float64)).parameters())
    optimizer = build(parameters)
    expected = [parameter.detach().clone() for parameter in parameters]
    state = [(torch.zeros_like(value), torch.zeros_like(value)) for value in expected]
    generator = torch.Generator().manual_seed(9)
    for step, rate in enumerate(RATES, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, weight, (first, second) in zip(parameters, expected, state, strict=True):
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.clone()
            if info_of(parameter).matrix:
                stacks = [value.view(-1, *value.shape[-2:]) for value in (weight, first, gradient)]
                for matrix, momentum, part in zip(*stacks, strict=True):
                    muon_step(matrix, momentum, part, rate)
            else:
                decay = SETTINGS.weight_decay if parameter.ndim >= 2 else 0.0
                adamw_step(weight, first, second, gradient, rate, step, decay)
        optimizer.step()
        for parameter, weight in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), weight, rtol=0, atol=1e-7, msg=info_of(parameter).name)


def build(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    places = [Place(parameter, parameter, 0, 0, parameter.numel()) for parameter in parameters]
    return Muon().build(SETTINGS, parameters, Surroundings(Gate(lambda: True), lambda: places, None, None))


FACTORS = {f"{stem}_{part}" for stem in ("query", "key") for part in ("down", "up")}
LINEAR = {
    "shared_diff": {"query_base.weight", "key_base.weight", "value.weight", "output.weight", *FACTORS},
    "diff": {"query.weight", "key.weight", "value.weight", "output.weight"},
    "standard": {"query.weight", "key.weight", "value.weight", "output.weight"},
    "diff_v2": {"query.weight", "key.weight", "value.weight", "output.weight", "lambda_proj.weight"},
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_matrices_are_the_linear_maps_of_the_blocks_and_the_factors(model: ModelConfig, tied: bool) -> None:
    config = replace(model, tie_embeddings=tied)
    parameters = LanguageModel(build_layers(config, Unsharded(), seed=3, device="meta")).parameters()
    matrices = {info_of(p).name for p in parameters if info_of(p).matrix}
    within = {f"attention.{name}" for name in LINEAR[config.attention]} | {
        f"ffn.{name}.weight" for name in ("gate", "up", "down")
    }
    assert matrices == {f"blocks.{layer}.{name}" for layer in range(config.num_layers) for name in within}


def test_a_hand_counted_matrix_costs_what_the_plan_says() -> None:
    """Rows 6 x 10 of a rank's half of [12, 10], 25 of its 60 elements, the rest on two other ranks."""
    info = ParameterInfo("w", (12, 10), shard_dim=0, matrix=True)
    table = ParameterInfo("embedding.weight", (1000, 10), shard_dim=0)
    cost = Muon().update_cost([HeldPart(info, 60, 2, 25, 3), HeldPart(table, 5000, 2, 5000, 1)], element_bytes=4)
    assert cost.gathered == 4 * 120
    assert cost.exchanged == 4 * max(2 * 25, 60 - 25)
    assert cost.flops == 5 * (4 * 10 * 10 * 12 + 2 * 10**3)
    iterating = 4 * (2 * 120 + 2 * 10 * 10)
    assert cost.workspace == 4 * (50 + 35) + 4 * 60 + 4 * 120 + iterating


def test_its_state_on_the_host_is_refused() -> None:
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    config = RunConfig(optimizer=SETTINGS, parallel=ParallelConfig(zero_stage=1), deepspeed=offload)
    with pytest.raises(InputError, match=r"offload_optimizer: optimizer\.kind muon keeps its state on the device"):
        check_run(config, plan_topology(config.parallel, 1))
    check_run(replace(config, optimizer=OptimizerConfig()), plan_topology(config.parallel, 1))
