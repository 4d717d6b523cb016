"""How the tokens of a sample are split over ranks.

In: the length of a sample, a rank among the ranks that share it. Out: the spans of tokens that this rank has, and what
the layers ask about them. Always: a sample is cut into two equal chunks for each rank; rank r has chunk r and, counted
from the end, chunk r, laid end to end. A causal token reads all before it, so early and late chunk together cost every
rank the same.

    4 ranks:   chunk   0  1  2  3  4  5  6  7
               rank    0  1  2  3  3  2  1  0
"""

from collections.abc import Callable

import torch
from torch import Tensor

from model.documents import Documents

Span = tuple[int, int]
"""[begin, end) of tokens of a sample"""
Product = Callable[..., Tensor]
"""``Form.softmax`` or ``Form.difference``"""


def spans_of(length: int, size: int, rank: int) -> tuple[Span, ...]:
    """The tokens of a sample of ``length`` that ``rank`` of ``size`` has, in their order; one span for one rank.

    ``length`` is a multiple of ``2 * size`` (pretrain/checks.py).
    """
    if size == 1:
        return ((0, length),)
    chunk = length // (2 * size)
    late = 2 * size - 1 - rank
    return (rank * chunk, (rank + 1) * chunk), (late * chunk, (late + 1) * chunk)


def in_order(by_rank: Tensor, size: int) -> Tensor:
    """[T, ...] in the order of the sample, from what ``size`` ranks have, laid end to end."""
    early, late = by_rank.unflatten(0, (size, 2, -1)).unbind(1)
    return torch.cat([early, late.flip(0)]).flatten(0, 1)


def by_rank(in_order: Tensor, size: int) -> Tensor:
    """The way back."""
    early, late = in_order.unflatten(0, (2, size, -1)).unbind()
    return torch.stack([early, late.flip(0)], dim=1).flatten(0, 2)


class Context:
    """Of a rank that has all tokens of its samples; subclasses share them."""

    size: int = 1
    rank: int = 0

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
        self, product: Product, q: Tensor, k: Tensor, v: Tensor, weight: Tensor | None, documents: Documents | None
    ) -> Tensor:
        """``product`` of this rank's queries with all keys and values that they may read.

        Args:
            product: of (q, k, v, documents), or of (q, k, v, weight, documents) where there is a weight.
            q, k, v, weight: of this rank's tokens.
            documents: as ``prepared`` gave them.
        """
        return product(q, k, v, *([] if weight is None else [weight]), documents)

    def whole(self, x: Tensor) -> Tensor:
        """``x`` [T/size, ...] of all ranks in the order of the sample, without a gradient: for what is looked at."""
        return x


ALONE = Context()
