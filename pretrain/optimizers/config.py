"""The `optimizer` section: which optimizer, and the settings of all of them.

In: YAML and command-line overrides. Out: a checked, frozen OptimizerConfig. Always: what a setting means only to some
optimizers is refused for the others (pretrain/optimizers/registry.py), so none is set in vain.
"""

from dataclasses import dataclass

from common.ranges import check_range
from pretrain.optimizers.default import DEFAULT_OPTIMIZER


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, with fp32 state; weight decay acts on matrices only."""

    kind: str = DEFAULT_OPTIMIZER
    """adamw, or muon (orthogonalised momentum for the matrices of the blocks, AdamW for all else)"""
    learning_rate: float = 3e-4
    """peak learning rate"""
    beta1: float = 0.9
    """AdamW's decay of the first moment"""
    beta2: float = 0.95
    """AdamW's decay of the second moment"""
    eps: float = 1e-8
    """AdamW adds it to the square root of the second moment"""
    momentum: float = 0.95
    """decay of Muon's momentum (muon only)"""
    weight_decay: float = 0.1
    """decoupled weight decay of matrices; norms and lambda vectors have none"""
    gradient_clipping: float = 1.0
    """largest global gradient norm; 0 turns clipping off"""

    def __post_init__(self) -> None:
        check_range(self, "optimizer.", "learning_rate", low=0, high=10)
        check_range(self, "optimizer.", "beta1", "beta2", "momentum", low=0, below=1)
        check_range(self, "optimizer.", "eps", low=1e-30, high=1)  # less is 0 in fp32
        check_range(self, "optimizer.", "weight_decay", low=0, high=1000)
        check_range(self, "optimizer.", "gradient_clipping", low=0, high=1e30)
