"""`muon`: orthogonalised momentum for the matrices of the blocks, AdamW for all other parameters.

In: the model's parameters and the `optimizer` section. Out: the optimizer behind the gate, and its declarations.
Always: a matrix is orthogonalised whole, however it is cut, so the losses are those of one process; weight decay acts
on what it acts on under AdamW; a step that the gate refuses leaves weights and moments as they were.

For a matrix W [n, m] with gradient G (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon):

    M <- momentum M + G
    O  = NewtonSchulz(G + momentum M)                                      (Nesterov)
    W <- W - rate (0.2 sqrt(max(n, m)) O + weight_decay W)

The scale gives O the root mean square 0.2 that AdamW's updates have, so learning rate and weight decay mean the same
for both rules (Liu et al., "Muon is scalable for LLM training", 2025, arXiv 2502.16982, section 2.2).

A matrix of a block is what says so of itself (``ParameterInfo.matrix``): the linear layers, with the rows of all heads
in one matrix, as in the papers; each base, A_s and B_{h,s} of Shared DIFF is a matrix of its own. The embedding, the
head, norms and vectors are AdamW's.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from model.parallel import ParameterInfo, info_of
from pretrain.optimizers.adamw import MOMENTS as ADAMW_MOMENTS
from pretrain.optimizers.adamw import SETTINGS as ADAMW_SETTINGS
from pretrain.optimizers.base import (
    Group,
    HeldPart,
    Moment,
    OptimizerKind,
    Place,
    Surroundings,
    UpdateCost,
    create_state,
)
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.newton_schulz import newton_schulz_flops, orthogonalised, workspace_bytes
from pretrain.optimizers.whole import WholeMatrices, exchange_cost

MOMENTUM = Moment("momentum")
MATRICES = Group("matrices of the blocks", (MOMENTUM,), counts_steps=False, divisible=False)
OTHERS = Group("embedding, head, norms and vectors", ADAMW_MOMENTS, counts_steps=True, divisible=True)
RMS_OF_ADAMW = 0.2
"""root mean square of a typical AdamW update, in units of the learning rate"""


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the first parameter group, torch's fused AdamW for the second."""

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], config: OptimizerConfig, around: Surroundings
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": matrices, "orthogonalised": True},
            {"params": others, "orthogonalised": False},
        ]
        # The others' weights decay here: DeepSpeed flattens a group, and only some of its parameters decay.
        super().__init__(
            groups,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=0.0,
            fused=True,
        )
        self._momentum = config.momentum
        self._weight_decay = config.weight_decay
        self._around = around
        self._matrices: WholeMatrices | None = None
        self._decaying: list[Place] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates the weights if the gate is open."""
        if not self._around.gate.is_open():
            return None
        if self._matrices is None:
            self._look_around()
        asked = self.param_groups  # DeepSpeed may ask for one group at a time
        for group in asked:
            self._decay(group)
            if group["orthogonalised"]:
                self._update_matrices(group)
        self.param_groups = [group for group in asked if not group["orthogonalised"]]
        try:
            return super().step(closure) if self.param_groups else None
        finally:
            self.param_groups = asked

    def _look_around(self) -> None:
        places = self._around.places()
        matrices = [place for place in places if info_of(place.parameter).matrix]
        self._matrices = WholeMatrices(matrices, self._around.data_group, self._around.tensor_group)
        self._decaying = [place for place in places if info_of(place.parameter).decay]

    def _decay(self, group: dict[str, Any]) -> None:
        """Decoupled weight decay, before the update as in torch's AdamW."""
        holders = set(group["params"])
        for place in self._decaying:
            if place.holder in holders:
                part = place.holder.view(-1).narrow(0, place.offset, place.numel)
                part.mul_(1 - group["lr"] * self._weight_decay)

    def _update_matrices(self, group: dict[str, Any]) -> None:
        assert self._matrices is not None
        for holder in group["params"]:
            if holder.grad is None:
                continue
            create_state(self, MATRICES, holder)
            momentum = self.state[holder][MOMENTUM.name]
            momentum.mul_(self._momentum).add_(holder.grad)
            update = holder.grad.add_(momentum, alpha=self._momentum)  # the gradient is not needed any more
            self._matrices.change(holder, update, scaled_update)
            holder.add_(update, alpha=-group["lr"])


def scaled_update(momentum: Tensor, place: Place) -> Tensor:
    """0.2 sqrt(max(n, m)) times the orthogonalised ``momentum`` [..., n, m], computed in the model's arithmetic."""
    scale = RMS_OF_ADAMW * math.sqrt(max(momentum.shape[-2:]))
    return orthogonalised(momentum.to(place.parameter.dtype)).to(momentum.dtype).mul_(scale)


class Muon(OptimizerKind):
    """The declarations."""

    name = "muon"
    title = "Muon with fused AdamW"
    settings = ADAMW_SETTINGS | {"momentum"}
    groups = (MATRICES, OTHERS)
    zero_stages = frozenset({0, 1, 2})  # ZeRO-3 cuts every matrix over all ranks, each of which would compute them all
    offloads = False  # the products belong on the device

    def group_of(self, info: ParameterInfo) -> Group:
        return MATRICES if info.matrix else OTHERS

    def build(
        self, config: OptimizerConfig, parameters: Iterable[nn.Parameter], around: Surroundings
    ) -> torch.optim.Optimizer:
        matrices, others = self.members(parameters)
        return MuonWithAdamW(matrices, others, config, around)

    def update_cost(self, parts: Iterable[HeldPart], element_bytes: int) -> UpdateCost:
        matrices = [part for part in parts if part.info.matrix]
        shapes = [part.info.full_shape for part in matrices]
        return exchange_cost(
            matrices,
            workspaces=[workspace_bytes(shape, element_bytes) for shape in shapes],
            flops=sum(newton_schulz_flops(shape) for shape in shapes),
        )
