"""Differential heads, arranged for kernels of ordinary attention.

In: a Kernel. Out: forms. Always: one or two calls for all heads; both maps' outputs are subtracted in fp32 or better.

    Grouped  a differential head is grouped-query attention: query heads [q1, 0] and [0, q2] over one key [k1, k2] and
             one value, all 2K wide. [q1, 0] . [k1, k2] = q1 . k1, and so on. One call, no copies of keys or values
    Halves   heads of K, one call for each half of the values, whose scores are computed twice: for kernels that are at
             their best up to width 128
    Wide     heads of K over values of 2K, for kernels that take unequal widths: no zeros, values once for each stream

Two streams of queries over one key, as `diff_v2` has them, need no arrangement: they are a group of query heads.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.difference import weighted_difference
from model.kernels.forms.base import TWO_STREAMS, Case, Form, Heads, Kept
from model.kernels.forms.kernel import Kernel


class Arrangement(Form):
    """What the arrangements share: everything but heads with two streams of keys."""

    keeps_inputs_only = False

    def __init__(self, kernel: Kernel, name: str, title: str) -> None:
        self.kernel = kernel
        self.name = name
        self.title = title

    def refusal(self, case: Case) -> str | None:
        widths = self.widths(case.head_dim) if case.maps == TWO_STREAMS else (case.head_dim, case.head_dim)
        return self.kernel.refusal(case.machine, case.dtype, *widths)

    def softmax(self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None) -> Tensor:
        return self.kernel.attend(q_UBNK, k_TBGK, v_TBGK, documents, q_UBNK.shape[-1] ** -0.5)

    def difference(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        if k_TBGSK.shape[3] == 2:
            return self.of_two_streams(q_UBHSK, k_TBGSK, v_TBGE, weight, documents)
        both_UBHSK = self.softmax(q_UBHSK.flatten(2, 3), k_TBGSK.squeeze(3), v_TBGE, documents).unflatten(2, (-1, 2))
        return weighted_difference(both_UBHSK, weight, dim=3)

    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        return self.kernel.prepared(documents, dtype)

    def layout_elements(self, keys: int) -> int:
        return self.kernel.layout_elements(keys)

    def kept(self, heads: Heads) -> Kept:
        if heads.maps == TWO_STREAMS:
            return self.kept_of_two_streams(heads)
        H, G, K = heads.heads, heads.groups, heads.head_dim
        queries = heads.maps.queries * H
        outputs = queries * K if heads.maps.queries == 2 else 0
        return Kept((queries + 2 * G) * K + outputs, numbers=queries, result=not outputs)

    def workspace(self, heads: Heads, sequences: int, queries: int, keys: int, element_bytes: int) -> int:
        return 0

    @abstractmethod
    def widths(self, head_dim: int) -> tuple[int, int]:
        """Of keys and values in the kernel's calls for heads with two streams of keys."""

    @abstractmethod
    def of_two_streams(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        """``difference`` for keys of two streams."""

    @abstractmethod
    def kept_of_two_streams(self, heads: Heads) -> Kept:
        """``kept`` for them."""


class Grouped(Arrangement):
    """One call with 2H query heads of 2K over G key/value heads of 2K."""

    keeps_copies = False

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, kernel.name, f"{kernel.title}, differential heads as groups of queries")

    def widths(self, head_dim: int) -> tuple[int, int]:
        return 2 * head_dim, 2 * head_dim

    def of_two_streams(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        scale = q_UBHSK.shape[-1] ** -0.5
        queries = _each_beside_zeros(q_UBHSK).flatten(2, 3)
        out = self.kernel.attend(queries, k_TBGSK.flatten(3), v_TBGE, documents, scale)
        return weighted_difference(out.unflatten(2, (-1, 2)), weight, dim=3)

    def kept_of_two_streams(self, heads: Heads) -> Kept:
        queries, keys_and_values = 4 * heads.heads, 4 * heads.groups
        return Kept((queries + keys_and_values + 4 * heads.heads) * heads.head_dim, numbers=2 * heads.heads)


class Halves(Arrangement):
    """Two calls with 2H query heads of K over 2G key/value heads of K."""

    keeps_copies = True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, f"{kernel.name}_halves", f"{kernel.title}, values of differential heads by halves")

    def widths(self, head_dim: int) -> tuple[int, int]:
        return head_dim, head_dim

    def of_two_streams(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        q, k = _streams_as_heads(q_UBHSK, k_TBGSK)
        halves = []
        for half_TBGK in v_TBGE.chunk(2, dim=-1):
            out = self.softmax(q, k, half_TBGK.repeat_interleave(2, dim=2), documents)
            halves.append(_subtracted(out, k_TBGSK.shape[2], weight))
        return torch.cat(halves, dim=-1)

    def kept_of_two_streams(self, heads: Heads) -> Kept:
        queries, keys, values = 2 * heads.heads, 2 * heads.groups, 4 * heads.groups
        return Kept((queries + keys + values + 4 * heads.heads) * heads.head_dim, numbers=4 * heads.heads)


class Wide(Arrangement):
    """One call with 2H query heads of K over 2G keys of K and values of 2K."""

    keeps_copies = True

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, f"{kernel.name}_wide", f"{kernel.title}, differential heads with wide values")

    def widths(self, head_dim: int) -> tuple[int, int]:
        return head_dim, 2 * head_dim

    def of_two_streams(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        q, k = _streams_as_heads(q_UBHSK, k_TBGSK)
        out = self.softmax(q, k, v_TBGE.repeat_interleave(2, dim=2), documents)
        return _subtracted(out, k_TBGSK.shape[2], weight)

    def kept_of_two_streams(self, heads: Heads) -> Kept:
        queries, keys, values = 2 * heads.heads, 2 * heads.groups, 4 * heads.groups
        return Kept((queries + keys + values + 4 * heads.heads) * heads.head_dim, numbers=2 * heads.heads)


def _each_beside_zeros(q_UBHSK: Tensor) -> Tensor:
    """[q1, 0] and [0, q2]: [U, B, H, 2, 2K], in one copy."""
    first, second = q_UBHSK.unbind(3)
    zeros = first.new_zeros(()).expand(*first.shape[:-1], 2 * first.shape[-1])
    return torch.cat([first, zeros, second], dim=-1).unflatten(-1, (2, -1))


def _streams_as_heads(q_UBHSK: Tensor, k_TBGSK: Tensor) -> tuple[Tensor, Tensor]:
    """Query heads in the order (group, stream, head of the group), key heads (group, stream)."""
    G = k_TBGSK.shape[2]
    return q_UBHSK.unflatten(2, (G, -1)).transpose(3, 4).flatten(2, 4), k_TBGSK.flatten(2, 3)


def _subtracted(out_UBNE: Tensor, groups: int, weight: Tensor) -> Tensor:
    """The difference of outputs in that order: [U, B, H, E]."""
    both = out_UBNE.unflatten(2, (groups, 2, -1))
    if weight.ndim:
        weight = weight.unflatten(2, (groups, -1))
    return weighted_difference(both, weight, dim=3).flatten(2, 3)
