"""One Transformer block: attention and feed-forward network, each behind a norm and beside a residual path.

In and out: the payload of model/payload.py. Always: Y = Attention(norm(X)) + X; X' = FFN(norm(Y)) + Y.
"""

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.ffn import FeedForward
from model.kinds.registry import kind_of
from model.layout import Layout
from model.norm import Norm
from model.parallel import Sharding
from model.payload import Payload
from model.recompute import ActivationCheckpointing, recomputed
from model.recorder import Recorder


class Block(nn.Module):
    """Block ``layer``, counted from 0; ``activation_checkpointing`` says what its backward pass recomputes."""

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        sharding: Sharding,
        recorder: Recorder,
        activation_checkpointing: ActivationCheckpointing,
    ) -> None:
        super().__init__()
        self.recorder = recorder
        self.attention_norm = Norm(config.hidden_size, config.norm_eps, sharding)
        selective = activation_checkpointing == "selective"
        self.attention = kind_of(config).build(config, layer, sharding, recorder.within("attention."), selective)
        self.ffn_norm = Norm(config.hidden_size, config.norm_eps, sharding)
        self.ffn = FeedForward(config, sharding, selective)
        self.recompute_all = activation_checkpointing == "full"

    def forward(self, payload: Payload) -> Payload:
        x_TBD, layout = payload
        if self.recompute_all and torch.is_grad_enabled():
            x_TBD = recomputed(self.transform, x_TBD, layout, second_time=self.recorder.paused)
        else:
            x_TBD = self.transform(x_TBD, layout)
        return Payload(x_TBD, layout)

    def transform(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        """The block's equations, [T, B, D] to [T, B, D]."""
        x_TBD = x_TBD + self.attention(self.attention_norm(x_TBD), layout)
        return x_TBD + self.ffn(self.ffn_norm(x_TBD))
