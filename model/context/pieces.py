"""Keys and values of some heads, of all tokens of a sample: gathered, let go of, and gathered again.

In: the part that this rank has. Out: the whole, for as long as somebody works on it. Always: an exchange starts before
its result is needed and is waited for when it is; what the backward pass keeps is this rank's part.

Between the forward and the backward pass nothing holds the whole: whatever a form of attention saves of it for its
backward pass is replaced by a note of where it lay (torch's hooks for saved tensors), and when it is asked for, the
whole is gathered again. Whoever has set such hooks before, as activation checkpointing does, goes on getting all other
tensors.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.context.base import by_rank, in_order
from model.exchange import gather_flat, reduce_scatter_flat
from model.torch_compat import saved_tensor_hooks


class Piece:
    """Some heads' keys and values: [T/size, B, G, W] of this rank, side by side; keys and values of all tokens.

    Args:
        group: the ranks that share the sample.
        key_width: of W; the rest are values.
        before: the piece whose turn in the backward pass comes after this one's; gathered ahead.
    """

    def __init__(self, group: dist.ProcessGroup, key_width: int, before: "Piece | None") -> None:
        self.group = group
        self.key_width = key_width
        self._before = before
        self._after: Piece | None = None
        if before is not None:
            before._after = self
        self._arriving: tuple[Any, Tensor, Tensor] | None = None
        self._whole: tuple[Tensor, Tensor] | None = None
        self._node: Callable[[], Any] | None = None
        self._leaving: tuple[Any, Tensor] | None = None

    def start(self, part: Tensor) -> None:
        """Starts to gather."""
        part = part.contiguous()
        everyone = part.new_empty(self.group.size() * len(part), *part.shape[1:])
        self._arriving = gather_flat(everyone, part, self.group), everyone, part

    def whole(self) -> tuple[Tensor, Tensor]:
        """Keys [T, B, G, key width] and values of all tokens, in their order; waits for them."""
        if self._whole is None:
            assert self._arriving is not None
            work, everyone, _ = self._arriving
            work.wait()
            self._arriving = None
            size, width = self.group.size(), self.key_width
            self._whole = in_order(everyone[..., :width], size), in_order(everyone[..., width:], size)
        return self._whole

    def let_go(self) -> None:
        """Nobody works on it for now."""
        self._whole = None

    def remember(self, node: Any) -> None:
        """``node`` of the autograd graph keeps this rank's part."""
        self._node = weakref.ref(node)

    def gather_again(self) -> None:
        """Starts to, if nobody has."""
        if self._whole is None and self._arriving is None and self._node is not None:
            (part,) = self._node().saved_tensors
            self.start(part)

    def again(self) -> tuple[Tensor, Tensor]:
        """``whole`` in the backward pass; the next piece's sets out meanwhile."""
        self.gather_again()
        if self._before is not None:
            self._before.gather_again()
        return self.whole()

    def send_gradient(self, gradient: Tensor) -> Tensor:
        """Starts to sum the ranks' gradients of the whole, [T, B, G, W]; this rank's part, to be read after ``settle``.

        The sum before this one has had a product's time to arrive: no more than one is on its way.
        """
        self.let_go()
        self._node = None
        if self._after is not None:
            self._after.settle()
        outgoing = by_rank(gradient, self.group.size())
        part = gradient.new_empty(len(gradient) // self.group.size(), *gradient.shape[1:])
        self._leaving = reduce_scatter_flat(part, outgoing, self.group), outgoing
        return part

    def settle(self) -> None:
        """Waits for the sum, if it is on its way."""
        if self._leaving is not None:
            self._leaving[0].wait()
            self._leaving = None

    def noted(self) -> AbstractContextManager[None]:
        """Within it, what is saved of the whole for the backward pass is noted, not kept."""
        keep, give = saved_tensor_hooks() or (_as_it_is, _as_it_is)
        here = [whole.untyped_storage().data_ptr() for whole in self.whole()]

        def pack(saved: Tensor) -> Any:
            if (place := saved.untyped_storage().data_ptr()) not in here:
                return keep(saved)
            return _Note(self, here.index(place), saved.size(), saved.stride(), int(saved.storage_offset()))

        def unpack(kept: Any) -> Tensor:
            return kept.tensor() if isinstance(kept, _Note) else give(kept)

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@dataclass(frozen=True)
class _Note:
    """Where a saved tensor lay in the whole of a piece."""

    piece: Piece
    which: int
    """0: of the keys, 1: of the values"""
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        return self.piece.again()[self.which].as_strided(self.size, self.stride, self.offset)


class Parts(torch.autograd.Function):
    """This rank's keys and values, side by side, to the parts of all pieces, by heads."""

    @staticmethod
    def forward(ctx: Any, both_TBGW: Tensor, pieces: Sequence[Piece], heads: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.pieces = pieces
        return tuple(part.contiguous() for part in both_TBGW.split(list(heads), dim=2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        for piece in ctx.pieces:
            piece.settle()
        return torch.cat(gradients, dim=2), None, None


class Gathered(torch.autograd.Function):
    """The part of a piece, whose gathering has started, to keys and values of the whole up to each of some ends."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, piece: Piece, ends: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(part)  # for the piece, which may ask for it once: checkpointing gives it once
        ctx.piece, ctx.ends, ctx.shape = piece, ends, part.shape
        keys, values = piece.whole()
        return tuple(whole[:end] for end in ends for whole in (keys, values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        width, (tokens, *heads) = ctx.piece.key_width, ctx.shape
        gradient = gradients[0].new_zeros(ctx.piece.group.size() * tokens, *heads)
        for end, of_keys, of_values in zip(ctx.ends, gradients[::2], gradients[1::2], strict=True):
            gradient[:end, ..., :width] += of_keys
            gradient[:end, ..., width:] += of_values
        return ctx.piece.send_gradient(gradient), None, None


def _as_it_is(x: Any) -> Any:
    return x
