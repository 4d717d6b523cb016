"""RMSNorm as a layer.

In: x [..., n]. Out: x / rms(x) * weight. Always: statistics in fp32 or better; what computes them is the model's choice
of kernels (model/kernels/rowwise/norm.py).
"""

from torch import Tensor, nn

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
        self.kernel = around.kernels.rowwise.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel.norm(x, self.weight, self.eps)


class AddNorm(Norm):
    """RMSNorm of a sum, which it hands out, too."""

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(norm of the sum, sum)."""
        return self.kernel.add_norm(x, residual, self.weight, self.eps)
