"""The global gradient norm of ZeRO-0, against sums of 80 bits that are not torch's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.config import ParallelConfig
from pretrain.engines.gradients import clip_by_global_norm, square_sum
from pretrain.topology import plan_topology


def parameter_with(gradient: torch.Tensor) -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    parameter.info = SimpleNamespace(shard_dim=None)  # type: ignore[attr-defined]
    return parameter


def exact_norm(gradients: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(g.numpy().astype(np.longdouble)))) for g in gradients))


GRADIENTS = {
    "large and of one size, where fp32 stops adding": [torch.full((3000, 2001), 1.7e-3)],
    "many values of every size": [
        torch.randn(1 << 20, generator=torch.Generator().manual_seed(1)) * scale for scale in (1e-6, 1.0, 1e3)
    ],
    "squares that are 0 or infinite in fp32": [torch.full((1000,), 1e-30), torch.full((1000,), 3e25)],
    "strided, odd and empty": [torch.arange(1_000_003.0)[::7], torch.ones(37, 11).t(), torch.zeros(0)],
}


@pytest.mark.parametrize("gradients", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_the_norm_is_that_of_fp64(gradients: list[torch.Tensor]) -> None:
    topology = plan_topology(ParallelConfig(zero_stage=0), 1)
    norm = clip_by_global_norm([parameter_with(g) for g in gradients], 0.0, topology, None)
    assert norm == pytest.approx(exact_norm(gradients), rel=1e-12)


def test_clipping_divides_by_that_norm() -> None:
    gradient = torch.full((3000, 2001), 1.7e-3)
    topology = plan_topology(ParallelConfig(zero_stage=0), 1)
    clip_by_global_norm([parameter := parameter_with(gradient)], 0.25, topology, None)
    assert exact_norm([parameter.grad]) == pytest.approx(0.25, rel=2e-6)  # type: ignore[list-item]


def test_nothing_has_the_norm_0() -> None:
    assert float(square_sum([])) == 0.0
    assert clip_by_global_norm([], 1.0, plan_topology(ParallelConfig(zero_stage=0), 1), None) == 0.0
