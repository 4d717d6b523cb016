"""`adamw`: AdamW (Loshchilov and Hutter, 2019) for every parameter.

In: the model's parameters and the `optimizer` section. Out: torch's fused AdamW behind the gate, and its declarations.
Always: weight decay acts on matrices only; a step that the gate refuses leaves weights and moments as they were.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from model.parallel import ParameterInfo
from pretrain.optimizers.base import FREE, Group, HeldPart, Moment, OptimizerKind, Surroundings, UpdateCost
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.gate import Gate

MOMENTS = (Moment("exp_avg"), Moment("exp_avg_sq", never_negative=True))
"""torch's names"""
SETTINGS = frozenset({"beta1", "beta2", "eps"})


class GatedAdamW(torch.optim.AdamW):
    """Fused AdamW whose ``step`` does nothing while ``gate`` is closed."""

    def __init__(self, groups: Iterable[dict[str, Any]], config: OptimizerConfig, gate: Gate) -> None:
        super().__init__(
            groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )
        self._gate = gate

    def step(self, closure: Any = None) -> Any:
        """Updates the weights if the gate is open."""
        return super().step(closure) if self._gate.is_open() else None


class AdamW(OptimizerKind):
    """The declarations."""

    name = "adamw"
    title = "fused AdamW"
    settings = SETTINGS
    groups = (
        Group("matrices", MOMENTS, counts_steps=True, divisible=True),
        Group("norms and vectors", MOMENTS, counts_steps=True, divisible=True),
    )
    zero_stages = frozenset({0, 1, 2, 3})
    offloads = True

    def group_of(self, info: ParameterInfo) -> Group:
        matrices, vectors = self.groups
        return matrices if info.decay else vectors

    def build(
        self, config: OptimizerConfig, parameters: Iterable[nn.Parameter], around: Surroundings
    ) -> torch.optim.Optimizer:
        decays = (config.weight_decay, 0.0)
        groups = [
            {"params": members, "weight_decay": decay}
            for members, decay in zip(self.members(parameters), decays, strict=True)
        ]
        return GatedAdamW([group for group in groups if group["params"]], config, around.gate)

    def update_cost(self, parts: Iterable[HeldPart], element_bytes: int) -> UpdateCost:
        return FREE
