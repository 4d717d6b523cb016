"""What one forward pass of one data-parallel rank reads.

In: tensors of a batch. Out: a MicroBatch. Always: batch first, as data/ delivers it.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one data-parallel rank."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    document_starts_BT: torch.Tensor | None = None
    marked_BT: torch.Tensor | None = None
    """evaluation only: targets whose loss is also told apart"""

    def payload(self) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the first layer takes."""
        return self.tokens_BT if self.document_starts_BT is None else (self.tokens_BT, self.document_starts_BT)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on ``device``."""

        def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return MicroBatch(
            self.tokens_BT.to(device, non_blocking=True),
            self.labels_BT.to(device, non_blocking=True),
            moved(self.document_starts_BT),
            moved(self.marked_BT),
        )
