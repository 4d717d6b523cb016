"""RMSNorm as a layer.

In: x [..., n]. Out: x / rms(x) * weight. Always: statistics in fp32 or better; which kernel computes them is chosen in
model/kernels/norm.py.
"""

from torch import Tensor, nn

from model.kernels.norm import rms_norm
from model.parallel import TouchedBy
from model.surroundings import Surroundings


class Norm(nn.Module):
    """RMSNorm over the last dimension with a learned scale, replicated on every rank.

    Args:
        touched_by: "tokens" for a norm of the residual stream, "heads" for one inside this rank's heads.
    """

    def __init__(self, width: int, eps: float, around: Surroundings, touched_by: TouchedBy = "tokens") -> None:
        super().__init__()
        self.weight = around.sharding.replicated(width, touched_by=touched_by)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
