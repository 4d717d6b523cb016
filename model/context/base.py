"""How the tokens of a sample are split over ranks.

In: the length of a sample, a rank among the ranks that share it. Out: the spans of tokens that this rank has, and what
the layers ask about them. Always: a sample is cut into two equal chunks for each rank; rank r has chunk r and, counted
from the end, chunk r, laid end to end. A causal token reads all before it, so early and late chunk together cost every
rank the same.

    4 ranks:   chunk   0  1  2  3  4  5  6  7
               rank    0  1  2  3  3  2  1  0
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from model.documents import Documents
from model.exchange import gather_flat

Span = tuple[int, int]
"""[begin, end) of tokens of a sample"""
Product = Callable[..., Tensor]
"""``Form.softmax`` or ``Form.difference``, of which a part may be bound"""


def spans_of(length: int, size: int, rank: int) -> tuple[Span, ...]:
    """The tokens of a sample of ``length`` that ``rank`` of ``size`` has, in their order; one span for one rank.

    ``length`` is a multiple of ``2 * size`` (pretrain/checks.py).
    """
    if size == 1:
        return ((0, length),)
    chunk = length // (2 * size)
    late = 2 * size - 1 - rank
    return (rank * chunk, (rank + 1) * chunk), (late * chunk, (late + 1) * chunk)


def in_order(laid: Tensor, size: int) -> Tensor:
    """[T, ...] in the order of the sample, from what ``size`` ranks have, laid end to end."""
    early, late = laid.unflatten(0, (size, 2, -1)).unbind(1)
    return torch.cat([early, late.flip(0)]).flatten(0, 1)


def by_rank(sample: Tensor, size: int) -> Tensor:
    """The way back."""
    early, late = sample.unflatten(0, (2, size, -1)).unbind()
    return torch.stack([early, late.flip(0)], dim=1).flatten(0, 2)


def of_all_ranks(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[T, ...] in the order of the sample, of which each rank of ``group`` has its part."""
    part, size = x.contiguous(), group.size()
    everyone = part.new_empty(size * len(part), *part.shape[1:])
    gather_flat(everyone, part, group).wait()
    return in_order(everyone, size)


class Context:
    """Of a rank that has all tokens of its samples."""

    size: int = 1
    rank: int = 0
    gathers: ClassVar[bool] = False
    """the product reads keys and values of all tokens, gathered for as long as it takes"""

    def positions(self, tokens_per_rank: int, device: torch.device) -> Tensor:
        """Index in its sample of each of this rank's tokens, int64."""
        spans = spans_of(tokens_per_rank * self.size, self.size, self.rank)
        return torch.cat([torch.arange(*span, device=device) for span in spans])

    def starts(self, documents: Documents) -> Tensor:
        """Of each of this rank's tokens the index of its document's first token."""
        return torch.cat([part.starts_TB for part in documents.parts]) if documents.parts else documents.starts_TB

    def prepared(self, documents: Documents, prepare: Callable[[Documents], Documents]) -> Documents:
        """``documents`` with what the form of attention reads of them, which ``prepare`` makes."""
        return prepare(documents)

    def attend(
        self, product: Product, q: Tensor, k: Tensor, v: Tensor, by_token: Sequence[Tensor], documents: Documents | None
    ) -> Tensor:
        """``product`` of this rank's queries with all keys and values that they may read.

        Args:
            product: of (q, k, v, *by_token, documents=documents).
            q, k, v: of this rank's tokens.
            by_token: what else each query head of theirs brings along, [T/size, B, H, 1]; what all tokens and heads
                read alike is the product's own.
            documents: as ``prepared`` gave them.
        """
        return product(q, k, v, *by_token, documents=documents)

    def whole(self, x: Tensor) -> Tensor:
        """``x`` [T/size, ...] of all ranks in the order of the sample, without a gradient: for what is looked at."""
        return x.detach()


class Shared(Context):
    """Of a rank of ``group``, whose ranks share the tokens of their samples."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size, self.rank = group.size(), group.rank()

    def whole(self, x: Tensor) -> Tensor:
        return of_all_ranks(x.detach(), self.group)


ALONE = Context()
