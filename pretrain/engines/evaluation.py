"""The loss of held-out micro-batches, and of the marked targets among them.

In: losses of each target as the engines compute them. Out: an Evaluation. Always: sums in fp64, on the device until
they are taken.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Evaluation:
    """The loss of some micro-batches of all data-parallel ranks, without gradients."""

    loss: float
    """mean over all targets"""
    marked_loss: float
    """summed over the marked targets"""
    marked: float
    """how many were marked"""


class MarkedLoss:
    """Sums over the marked targets of an evaluation, as they come."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        """summed loss, and number of targets"""

    def add(self, loss_TB: torch.Tensor, marked_BT: torch.Tensor) -> None:
        """Takes one micro-batch."""
        marked_TB = marked_BT.t()
        # fp32 counts no further than 16.7 million
        here = torch.stack([(loss_TB * marked_TB).sum(dtype=torch.float64), marked_TB.sum(dtype=torch.float64)])
        self.sums = here if self.sums is None else self.sums + here

    def take(self, device: torch.device) -> torch.Tensor:
        """The sums since the last call; zeros where nothing was marked here."""
        sums, self.sums = self.sums, None
        return torch.zeros(2, dtype=torch.float64, device=device) if sums is None else sums.detach()
