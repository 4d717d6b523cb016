"""The documents of a micro-batch, in the forms that attention kernels read.

In: document starts as the data has them, on the host. Out: Documents. Always: what depends on the number of documents
is made here, from numbers of the host and once per micro-batch, so that no layer has to ask the device for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """The documents' tokens, sequences laid end to end."""

    begins: Tensor
    """int32 [documents + 1]: where each begins, and the end of the last one"""
    longest: int
    """tokens of the longest one"""
    numbers: tuple[int, ...]
    """``begins`` as numbers that the host knows"""

    @classmethod
    def of(cls, lengths: Tensor) -> "Bounds":
        """From the tokens of each document, on the host."""
        begins = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return cls(begins.int(), int(lengths.max()), tuple(begins.tolist()))


@dataclass(frozen=True)
class Documents:
    """Attention stays inside each of them, and positions count from its start.

    Of whole sequences, or of a part of their tokens as queries and all tokens up to its end as keys: U queries, which
    are the last ones of T keys.
    """

    starts_TB: Tensor
    """int32, for each query ([U, B]): index among the keys of the first token of the document that it is in"""
    ends_TB: Tensor
    """int32, for each key: index of the first token behind the document that it is in; at most T"""
    keys: Bounds
    """of the keys"""
    queries: Bounds
    """of the queries, of which a document before the part has none; the same object if all keys are queries"""
    mask: Tensor | None = None
    """``additive_mask`` where it was made in advance, for kernels that cannot read bounds"""
    blocks: Any = None
    """a FlexAttention block mask where it was made in advance, for the kernel that reads it"""
    parts: tuple["Documents", ...] = ()
    """of the spans of tokens that this rank has, where samples are split over ranks"""

    @classmethod
    def of(cls, starts_BT: Tensor) -> "Documents":
        """The documents of sequences on the host; ``starts_BT`` is ``starts_TB`` batch first."""
        B, T = starts_BT.shape
        first_BT = starts_BT == torch.arange(T, dtype=starts_BT.dtype)
        lengths = torch.cat([first_BT.flatten().nonzero().flatten(), torch.tensor([B * T])]).diff()
        bounds = Bounds.of(lengths)
        ends_BT = bounds.begins[1:].repeat_interleave(lengths).view(B, T) - torch.arange(0, B * T, T)[:, None]
        return cls(starts_BT.t().contiguous(), ends_BT.int().t().contiguous(), bounds, bounds)

    def part(self, begin: int, end: int) -> "Documents":
        """Of whole sequences: the tokens [begin, end) of each as queries, [0, end) as keys; on the same device."""
        T = len(self.ends_TB)
        bounds = torch.tensor(self.keys.numbers)
        first = bounds[:-1] % T
        last = (first + bounds.diff()).clamp(max=end)
        reached = first < end
        keys = Bounds.of((last - first)[reached])
        queries = Bounds.of((last - first.clamp(min=begin)).clamp(min=0)[reached])
        ends_TB = self.ends_TB[:end].clamp(max=end)
        return Documents(self.starts_TB[begin:end], ends_TB, keys, queries).to(ends_TB.device)

    def cut(self, spans: Sequence[tuple[int, int]]) -> "Documents":
        """The same with the ``part`` of each of ``spans``."""
        return replace(self, parts=tuple(self.part(begin, end) for begin, end in spans))

    def to(self, device: torch.device) -> "Documents":
        """The same on ``device``; the host does not wait where they are pinned."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Documents":
        """The same in memory from which a GPU copies by itself."""
        return self._each(Tensor.pin_memory)

    def masked(self, dtype: torch.dtype) -> "Documents":
        """The same with the mask for queries of type ``dtype``."""
        return replace(self, mask=self.additive_mask(dtype))

    def with_blocks(self, blocks: Any) -> "Documents":
        """The same with a block mask."""
        return replace(self, blocks=blocks)

    def additive_mask(self, dtype: torch.dtype) -> Tensor:
        """What is added to logits, [B, 1, U, T]: 0 where query i may read key j, not later and in the same document,
        and -inf elsewhere."""
        if self.mask is not None:
            return self.mask
        T, U = len(self.ends_TB), len(self.starts_TB)
        index_T = torch.arange(T, device=self.starts_TB.device)
        same_document = index_T >= self.starts_TB.t()[:, None, :, None]
        hidden = ~(same_document & (index_T <= index_T[T - U :, None]))
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Documents":
        """The same with other tensors."""
        parts = tuple(part._each(change) for part in self.parts)
        keys = replace(self.keys, begins=change(self.keys.begins))
        queries = keys if self.queries is self.keys else replace(self.queries, begins=change(self.queries.begins))
        starts_TB, ends_TB = change(self.starts_TB), change(self.ends_TB)
        return replace(self, starts_TB=starts_TB, ends_TB=ends_TB, keys=keys, queries=queries, parts=parts)
