"""The documents of a micro-batch, in the forms that attention kernels read.

In: document starts as the data has them, on the host. Out: Documents. Always: what depends on the number of documents
is made here, on the host and once per micro-batch, so that no layer has to ask the device for it.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Attention stays inside each of them, and positions count from its start."""

    starts_TB: Tensor
    """int32: index of the first token of the document that each token is in"""
    ends_TB: Tensor
    """int32: index of the first token behind that document"""
    bounds: Tensor
    """int32 [documents + 1]: where each begins in the sequences laid end to end, and the end of the last one"""
    longest: int
    """tokens of the longest one"""
    borders: tuple[int, ...]
    """``bounds`` as numbers that the host knows"""
    mask: Tensor | None = None
    """``additive_mask`` where it was made in advance, for kernels that cannot read ``bounds``"""
    blocks: Any = None
    """a FlexAttention block mask where it was made in advance, for the kernel that reads it"""

    @classmethod
    def of(cls, starts_BT: Tensor) -> "Documents":
        """The documents of sequences on the host; ``starts_BT`` is ``starts_TB`` batch first."""
        B, T = starts_BT.shape
        first_BT = starts_BT == torch.arange(T, dtype=starts_BT.dtype)
        bounds = torch.cat([first_BT.flatten().nonzero().flatten(), torch.tensor([B * T])])
        lengths = bounds.diff()
        ends_BT = bounds[1:].repeat_interleave(lengths).view(B, T) - torch.arange(0, B * T, T)[:, None]
        starts_TB, ends_TB = starts_BT.t().contiguous(), ends_BT.int().t().contiguous()
        return cls(starts_TB, ends_TB, bounds.int(), int(lengths.max()), tuple(bounds.tolist()))

    def to(self, device: torch.device) -> "Documents":
        """The same on ``device``; the host does not wait where they are pinned."""
        return replace(
            self,
            starts_TB=self.starts_TB.to(device, non_blocking=True),
            ends_TB=self.ends_TB.to(device, non_blocking=True),
            bounds=self.bounds.to(device, non_blocking=True),
        )

    def pinned(self) -> "Documents":
        """The same in memory from which a GPU copies by itself."""
        return replace(
            self,
            starts_TB=self.starts_TB.pin_memory(),
            ends_TB=self.ends_TB.pin_memory(),
            bounds=self.bounds.pin_memory(),
        )

    def masked(self, dtype: torch.dtype) -> "Documents":
        """The same with the mask for queries of type ``dtype``."""
        return replace(self, mask=self.additive_mask(dtype))

    def with_blocks(self, blocks: Any) -> "Documents":
        """The same with a block mask."""
        return replace(self, blocks=blocks)

    def additive_mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to logits, [B, 1, T, T]: 0 where token i may read token j, not later and in the same document,
        and -inf elsewhere."""
        if self.mask is not None:
            return self.mask
        index_T = torch.arange(self.starts_TB.shape[0], device=self.starts_TB.device)
        same_document = index_T >= self.starts_TB.t()[:, None, :, None]
        hidden = ~(same_document & (index_T <= index_T[:, None]))
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
