"""Attention across the parts of a sample: every rank gathers the keys and values of all.

In: this rank's queries, keys and values. Out: this rank's outputs. Always: keys and values arrive by pieces of heads;
while one is worked on, the next is on its way, forward and backward, where they are gathered again and their gradients
leave. (Llama 3, section 3.3.2, gathers them at once; there they are small beside the product. Differential heads have
as many.)

    forward     gather 1   gather 2    gather 3
                           product 1   product 2   product 3
    backward    gather 3   gather 2    gather 1
                           product 3   product 2   product 1
                                       sum 3       sum 2      sum 1

A product is that of one chunk of queries with the keys before its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from model.context.base import Product, Shared, spans_of
from model.context.pieces import Gathered, Parts, Piece
from model.documents import Documents


class Gathering(Shared):
    """Keys and values of ``group``'s ranks are gathered in up to ``pieces`` pieces."""

    gathers = True

    def __init__(self, group: dist.ProcessGroup, pieces: int) -> None:
        super().__init__(group)
        self.pieces = pieces

    def prepared(self, documents: Documents, prepare: Callable[[Documents], Documents]) -> Documents:
        return replace(documents, parts=tuple(prepare(part) for part in documents.parts))

    def attend(
        self, product: Product, q: Tensor, k: Tensor, v: Tensor, by_token: Sequence[Tensor], documents: Documents | None
    ) -> Tensor:
        groups, key_shape = k.shape[2], k.shape[3:]
        ends = [end for _, end in spans_of(len(q) * self.size, self.size, self.rank)]
        heads = heads_of_pieces(groups, self.pieces)
        pieces: list[Piece] = []
        for _ in heads:
            pieces.append(Piece(self.group, key_shape.numel(), pieces[-1] if pieces else None))
        parts = Parts.apply(torch.cat([k.flatten(3), v], dim=-1), pieces, heads)
        of_queries = [_by_chunk_and_piece(x, len(ends), groups, heads) for x in (q, *by_token)]
        inside = documents.parts if documents is not None else [None] * len(ends)
        found: list[list[Tensor]] = [[] for _ in ends]
        pieces[0].start(parts[0].detach())
        for number, (piece, part) in enumerate(zip(pieces, parts, strict=True)):
            if number + 1 < len(pieces):
                pieces[number + 1].start(parts[number + 1].detach())
            read = Gathered.apply(part, piece, ends)
            if part.requires_grad and torch.is_grad_enabled():
                piece.remember(read[0].grad_fn)
            with piece.noted():
                for chunk, outputs in enumerate(found):
                    keys, values = read[2 * chunk].unflatten(-1, key_shape), read[2 * chunk + 1]
                    queries, *own = (x[chunk][number] for x in of_queries)
                    outputs.append(product(queries, keys, values, *own, documents=inside[chunk]))
            piece.let_go()
            del read, keys, values
        return torch.cat([torch.cat(outputs, dim=2) for outputs in found])


def heads_of_pieces(groups: int, pieces: int) -> list[int]:
    """Key/value heads of each of up to ``pieces`` pieces, as even as can be, the larger first."""
    pieces = min(groups, pieces)
    return [groups // pieces + (number < groups % pieces) for number in range(pieces)]


def _by_chunk_and_piece(x: Tensor, chunks: int, groups: int, heads: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """Of [T/size, B, H, ...] what each chunk and piece reads."""
    each = x.shape[2] // groups
    return [chunk.split([each * count for count in heads], dim=2) for chunk in x.chunk(chunks)]
