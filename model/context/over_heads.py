"""Attention across the parts of a sample: every rank takes all tokens of some heads.

In: this rank's queries, keys and values. Out: this rank's outputs. Always: the form of attention sees whole samples;
two exchanges forward, two backward, of which nothing is hidden (DeepSpeed-Ulysses, Jacobs et al., 2023).

A rank sends queries, keys, values and outputs once, (size - 1)/size of its tokens: bytes fall as ranks are added, where
gathered keys and values stay the same. But the ranks divide the key/value heads, so there cannot be more of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.context.base import Product, Shared, by_rank, in_order
from model.documents import Documents


class OverHeads(Shared):
    """The key/value heads of a tensor-parallel rank are a multiple of ``group``'s ranks."""

    def attend(
        self, product: Product, q: Tensor, k: Tensor, v: Tensor, by_token: Sequence[Tensor], documents: Documents | None
    ) -> Tensor:
        groups = k.shape[2]
        by_group = [x.unflatten(2, (groups, -1)).flatten(3) for x in (q, k, v)]
        widths = [x.shape[-1] for x in by_group]
        mine = _TokensOfHeads.apply(torch.cat(by_group, dim=-1), widths, self.group)
        q, k, v = (
            x.unflatten(-1, (-1, *like.shape[3:])).flatten(2, 3) for x, like in zip(mine, (q, k, v), strict=True)
        )
        others = (_TokensOfHeads.apply(x, [x.shape[-1]], self.group)[0] for x in by_token)
        out = product(q, k, v, *others, documents=documents)
        result: Tensor = _HeadsOfTokens.apply(out, self.group)
        return result


class _TokensOfHeads(torch.autograd.Function):
    """[T/size, B, H, W] of all heads to [T, B, H/size, w] of all tokens, in their order, for each w of ``widths``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, widths: Sequence[int], group: dist.ProcessGroup) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(in_order(part, group.size()) for part in _to_heads(x, group).split(list(widths), dim=-1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _to_tokens(torch.cat(gradients, dim=-1), ctx.group), None, None


class _HeadsOfTokens(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _to_tokens(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return in_order(_to_heads(gradients[0], ctx.group), ctx.group.size()), None


def _to_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All tokens of this rank's heads, as the ranks have them."""
    size = group.size()
    outgoing = x.unflatten(2, (size, -1)).movedim(2, 0).contiguous()
    arrived = torch.empty_like(outgoing)
    dist.all_to_all_single(arrived, outgoing, group=group)
    return arrived.flatten(0, 1)


def _to_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All heads of this rank's tokens, from tokens in their order."""
    size = group.size()
    outgoing = by_rank(x, size).unflatten(0, (size, -1))
    arrived = torch.empty_like(outgoing)
    dist.all_to_all_single(arrived, outgoing, group=group)
    return arrived.movedim(0, 2).flatten(2, 3)
