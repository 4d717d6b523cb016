"""AdamW with a gate: the last place where a bad step can be kept from the weights.

In: the model's parameters and the `optimizer` section. Out: an optimizer that DeepSpeed wraps.
Always: weight decay acts on matrices only; a step that the gate refuses leaves weights and moments as they were.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pretrain.config import OptimizerConfig


class GatedAdamW(torch.optim.AdamW):
    """Fused AdamW that asks ``gate`` once per optimizer step whether the step may be taken.

    DeepSpeed calls ``step`` once per parameter group or partition, after the global gradient norm is known;
    the gate's first answer therefore holds until ``begin_step``.
    """

    def __init__(self, parameters: Iterable[Any], gate: Callable[[], bool], **settings: Any) -> None:
        super().__init__(parameters, fused=True, **settings)
        self._gate = gate
        self._open: bool | None = None

    def begin_step(self) -> None:
        """Forgets the answer of the step before."""
        self._open = None

    @property
    def applied(self) -> bool:
        """Whether the step since ``begin_step`` reached the weights."""
        return self._open is True

    def step(self, closure: Any = None) -> Any:
        """Updates the weights if the gate is open."""
        if self._open is None:
            self._open = self._gate()
        return super().step(closure) if self._open else None

    def create_state(self, parameters: Iterable[torch.Tensor]) -> None:
        """Creates the missing moments of ``parameters`` now, as zeros, so that a checkpoint can be read into them."""
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def set_applied_steps(self, steps: int) -> None:
        """Tells every parameter's bias correction that ``steps`` steps have been applied; refused ones do not count."""
        for state in self.state.values():
            state["step"].fill_(float(steps))


def build_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter], gate: Callable[[], bool]
) -> GatedAdamW:
    """Two parameter groups: matrices, which decay, and the rest."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.info.decay is decays], "weight_decay": config.weight_decay * decays}  # type: ignore[attr-defined]
        for decays in (True, False)
    ]
    return GatedAdamW(
        [group for group in groups if group["params"]],
        gate,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )
