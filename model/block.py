"""One Transformer block: attention and feed-forward network, each behind a norm and beside a residual path.

In and out: the payload of model/payload.py. Always: Y = Attention(norm(X)) + X; X' = FFN(norm(Y)) + Y.
"""

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.context.base import Context
from model.ffn import FeedForward
from model.kernels.kept import Kernels
from model.kinds.registry import kind_of
from model.layout import Layout
from model.norm import AddNorm, Norm
from model.payload import Payload
from model.recompute import recomputed
from model.surroundings import Surroundings


class Block(nn.Module):
    """Block ``layer``, counted from 0."""

    def __init__(self, config: ModelConfig, layer: int, around: Surroundings) -> None:
        super().__init__()
        self.recorder = around.recorder
        self.kernels = around.kernels
        self.context = around.context
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, around)
        self.attention = kind_of(config).build(config, layer, around.within("attention."))
        self.ffn_norm = AddNorm(config.hidden_size, config.norm_eps, around)
        self.ffn = FeedForward(config, around)
        self.recompute_all = around.recompute == "full"

    def forward(self, payload: Payload) -> Payload:
        x_TBD, layout = payload
        if self.recompute_all and torch.is_grad_enabled():
            x_TBD = recomputed(self.transform, x_TBD, layout, second_time=self.recorder.paused)
        else:
            x_TBD = self.transform(x_TBD, layout)
        return Payload(x_TBD, layout)

    def transform(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        """The block's equations, [T, B, D] to [T, B, D]."""
        normed_TBD, x_TBD = self.ffn_norm(self.attention(self.attention_norm(x_TBD), layout), x_TBD)
        return x_TBD + self.ffn(normed_TBD)


def kernels_of(model: nn.Module) -> Kernels:
    """The kernels that the blocks of ``model`` call; every stage of a pipeline has a block."""
    return next(module.kernels for module in model.modules() if isinstance(module, Block))


def context_of(model: nn.Module) -> Context:
    """How the samples are split that the blocks of ``model`` work on."""
    return next(module.context for module in model.modules() if isinstance(module, Block))
