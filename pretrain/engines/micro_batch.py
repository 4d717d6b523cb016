"""What one forward pass of one rank reads.

In: tensors of a batch. Out: a MicroBatch. Always: batch first, as data/ delivers it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from model.context.base import Span
from model.documents import Documents
from model.payload import Tokens


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank: whole samples, or its parts of them."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    documents: Documents | None = None
    marked_BT: torch.Tensor | None = None
    """evaluation only: targets whose loss is also told apart"""

    def payload(self) -> Tokens:
        """What the first layer takes."""
        return self.tokens_BT, self.documents

    def cut(self, spans: Sequence[Span]) -> "MicroBatch":
        """What a rank reads that has these spans of every sample; documents keep what attention asks of the rest."""
        if len(spans) == 1:
            return self

        def own(x_BT: torch.Tensor) -> torch.Tensor:
            return torch.cat([x_BT[:, begin:end] for begin, end in spans], dim=1)

        return MicroBatch(
            own(self.tokens_BT),
            own(self.labels_BT),
            None if self.documents is None else self.documents.cut(spans),
            None if self.marked_BT is None else own(self.marked_BT),
        )

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on ``device``."""

        return MicroBatch(
            self.tokens_BT.to(device, non_blocking=True),
            self.labels_BT.to(device, non_blocking=True),
            None if self.documents is None else self.documents.to(device),
            None if self.marked_BT is None else self.marked_BT.to(device, non_blocking=True),
        )

    def pinned(self) -> "MicroBatch":
        """The same in memory from which a GPU copies by itself, so that ``to`` waits for nothing."""
        return MicroBatch(
            self.tokens_BT.pin_memory(),
            self.labels_BT.pin_memory(),
            None if self.documents is None else self.documents.pinned(),
            None if self.marked_BT is None else self.marked_BT.pin_memory(),
        )
