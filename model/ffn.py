"""The feed-forward half of a block: SwiGLU.

In: x_TBD, normalised. Out: (swish(x W_gate) * x W_up) W_down, [T, B, D]. Always: gate and up are split by columns and
down by rows, so one exchange enters and one leaves.
"""

from functools import partial

from torch import Tensor, nn

from model.config import ModelConfig
from model.gated import gated_linear, recomputed_gated_linear
from model.surroundings import Surroundings


class FeedForward(nn.Module):
    """SwiGLU of width F without biases (Shazeer, 2020; DIFF paper, section 2.2)."""

    def __init__(self, config: ModelConfig, around: Surroundings) -> None:
        super().__init__()
        self.sharding = sharding = around.sharding
        gated = recomputed_gated_linear if around.recompute == "selective" else gated_linear
        product = partial(gated, around.kernels.rowwise.swiglu)
        self.gate = sharding.column_linear(config.hidden_size, config.ffn_hidden_size)
        self.up = sharding.column_linear(config.hidden_size, config.ffn_hidden_size)
        self.down = sharding.row_linear(config.ffn_hidden_size, config.hidden_size, product=product)

    def forward(self, x_TBD: Tensor) -> Tensor:
        gate_TBF, up_TBF = self.sharding.columns(x_TBD, [self.gate, self.up])
        return self.down(gate_TBF, up_TBF)
