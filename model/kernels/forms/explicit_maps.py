"""The difference of two attention maps times the values, from explicit maps of a block of queries.

In: rotated queries and keys, values, the second map's weight, the documents of a sequence; on the host. Out: the
product, and its gradients. Always: computed in fp32 or better; of U x T there are the rows of one block at a time; the
gradients need the inputs alone, from which the maps are made again; the U queries are those of the last U of T keys.

Within, a matrix is what one key/value head of one sequence has: queries and outputs of the r = H/G heads that read it,
rows ordered (token, head), so that a block of tokens is a range of rows. Letters: M matrices, n rows, j keys.

    P = P1 - w P2                O = P V
    dP = dO V^T                  dV = P^T dO
    dS1 = P1 (dP - P1 . dP)      dS2 = -w P2 (dP - P2 . dP)      dw = -P2 . dP       (. sums over keys)
    dQ = scale dS K              dK = scale dS^T Q
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kernels.forms.base import Heads

ROWS = 64
"""rows of a block"""


@dataclass(frozen=True)
class Gradients:
    """Of the inputs, in the type of the arithmetic."""

    q_UBHSK: Tensor
    k_TBGSK: Tensor
    v_TBGE: Tensor
    weight_UBH1: Tensor
    """for each token and head, whether the weight was one for all or not; of nothing without one"""


@dataclass(frozen=True)
class _Block:
    """Queries that are worked on at once, and the keys that any of them sees."""

    rows: slice
    """of the queries"""
    keys: slice
    """tokens of the keys"""
    hidden: Tensor
    """True where a query must not look: for each row, of the last so many keys; it sees all before them"""


def most_elements(part: Heads, sequences: int, queries: int, keys: int) -> int:
    """Of what ``ExplicitMaps.gradients`` holds of so many heads and sequences besides its result, at most."""
    maps, heads, groups = part.maps, part.heads, part.groups
    of_query = (2 * maps.queries + maps.keys) * heads * part.head_dim + heads
    of_key = 4 * maps.keys * groups * part.head_dim
    block = min(ROWS, queries * heads // groups) * keys * groups
    return sequences * (queries * of_query + keys * of_key + (maps.queries + 2) * block)


class ExplicitMaps:
    """Some heads of some sequences.

    Args:
        q_UBHSK: S = 2; S = 1 for one map, without ``weight``.
        k_TBGSK: as many streams as the queries have, or one that all of them read.
        weight: a scalar, or [U, B, H, 1].
        starts_U: index of the first key that each query sees, for B = 1; None: all see the first one.
        borders: of that sequence, where each document begins.
    """

    def __init__(
        self,
        q_UBHSK: Tensor,
        k_TBGSK: Tensor,
        v_TBGE: Tensor,
        weight: Tensor | None,
        starts_U: Tensor | None,
        borders: Sequence[int],
    ) -> None:
        self.U, self.B, H, _, K = q_UBHSK.shape
        self.offset, self.G = len(k_TBGSK) - self.U, k_TBGSK.shape[2]
        self.heads = H // self.G
        self.dtype = torch.promote_types(q_UBHSK.dtype, torch.float32)
        self.scale = K**-0.5
        self.queries = [self._by_matrix(q_UBHK).mul_(self.scale) for q_UBHK in q_UBHSK.unbind(3)]
        self.keys = [self._by_matrix(k_TBGK) for k_TBGK in k_TBGSK.unbind(3)]
        self.values = self._by_matrix(v_TBGE)
        self.starts_U, self.borders = starts_U, borders
        self.shares = None if weight is None else -(self._by_matrix(weight) if weight.ndim else weight.to(self.dtype))

    @torch.autocast("cpu", enabled=False)
    def product(self) -> Tensor:
        """[U, B, H, E]."""
        out_MnE = self.values.new_empty(*self.queries[0].shape[:2], self.values.shape[-1])
        for block in self._blocks():
            maps = self._maps(block)
            out_MnE[:, block.rows] = torch.bmm(self._combined(block, maps), self.values[:, block.keys])
        return self._by_token(out_MnE, self.heads)

    @torch.autocast("cpu", enabled=False)
    def gradients(self, of_out_UBHE: Tensor) -> Gradients:
        """Of the inputs, from that of the product."""
        of_out = self._by_matrix(of_out_UBHE)
        of_queries = [torch.empty_like(queries) for queries in self.queries]
        of_keys = [torch.zeros_like(keys) for keys in self.keys]
        of_values = torch.zeros_like(self.values)
        of_weight = self.values.new_empty(*of_out.shape[:2], 1)
        for block in self._blocks():
            maps, of_block = self._maps(block), of_out[:, block.rows]
            of_map = torch.bmm(of_block, self.values[:, block.keys].mT)
            for stream, one in enumerate(maps):
                of_score, dot = _through_softmax(of_map, one)
                key, queries = stream % len(self.keys), self.queries[stream][:, block.rows]
                of_query = torch.bmm(of_score, self.keys[key][:, block.keys])
                if stream == 1:
                    of_query, queries = of_query.mul_(self._share(block)), queries * self._share(block)
                of_queries[stream][:, block.rows] = of_query
                of_keys[key][:, block.keys].baddbmm_(of_score.mT, queries)
                del of_score  # before the next one is made
            of_weight[:, block.rows] = -dot
            of_values[:, block.keys].baddbmm_(self._combined(block, maps).mT, of_block)
        return Gradients(
            torch.stack([self._by_token(of_query, self.heads) for of_query in of_queries], dim=3).mul_(self.scale),
            torch.stack([self._by_token(of_key, 1) for of_key in of_keys], dim=3),
            self._by_token(of_values, 1),
            self._by_token(of_weight, self.heads),
        )

    def _by_matrix(self, x: Tensor) -> Tensor:
        """A copy of [U or T, B, H or G, width] as [M, n or j, width] in the type of the arithmetic."""
        by_group = x.unflatten(2, (self.G, -1)).permute(1, 2, 0, 3, 4)
        copy = torch.empty(by_group.shape, dtype=self.dtype, device=x.device).copy_(by_group)
        return copy.view(self.B * self.G, -1, x.shape[-1])

    def _by_token(self, x: Tensor, heads: int) -> Tensor:
        """The way back, for ``heads`` rows of a token: a view or a copy."""
        return x.view(self.B, self.G, -1, heads, x.shape[-1]).permute(2, 0, 1, 3, 4).flatten(2, 3)

    def _blocks(self) -> Iterator[_Block]:
        tokens = max(1, ROWS // self.heads)
        for begin in range(0, self.U, tokens):
            end = min(begin + tokens, self.U)
            own, behind = self.offset + begin, self.offset + end
            index = torch.arange(own, behind)
            if self.starts_U is None:
                first, hidden = 0, index > index[:, None]
            else:
                first = self.borders[bisect_right(self.borders, own) - 1]
                seen, starts = torch.arange(first, behind), self.starts_U[begin:end]
                hidden = (seen > index[:, None]) | (seen < starts[:, None])
            rows = slice(begin * self.heads, end * self.heads)
            yield _Block(rows, slice(first, behind), hidden.repeat_interleave(self.heads, 0))

    def _maps(self, block: _Block) -> list[Tensor]:
        """softmax(scale Q K^T) of each stream's queries."""
        found = []
        for stream, queries in enumerate(self.queries):
            scores = torch.bmm(queries[:, block.rows], self.keys[stream % len(self.keys)][:, block.keys].mT)
            scores[..., scores.shape[-1] - block.hidden.shape[-1] :].masked_fill_(block.hidden, -torch.inf)
            found.append(scores.softmax(-1))
        return found

    def _share(self, block: _Block) -> Tensor:
        """What the second map is multiplied by, -w: a scalar, or one for each row."""
        assert self.shares is not None
        return self.shares[:, block.rows] if self.shares.ndim else self.shares

    def _combined(self, block: _Block, maps: list[Tensor]) -> Tensor:
        """P, in the place of the first map."""
        return maps[0].addcmul_(maps[1], self._share(block)) if len(maps) == 2 else maps[0]


def _through_softmax(of_map: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
    """(the gradient of the scores, and P . dP of each row), from the gradient of the map ``one`` that they make."""
    product = of_map * one
    dot = product.sum(-1, keepdim=True)
    return product.addcmul_(one, dot, value=-1), dot
