"""What a form of attention is: one way to bring the attention product of a layer to a kernel.

In: rotated queries and keys, values, and the documents, all sequence first. Out: the abstract class Form, and what it
is asked about. Always: causal; softmax, lambda and the difference of two maps in fp32 or better; nothing has a default.

There may be fewer queries than keys, U <= T: they are the last ones, query i that of token T - U + i.

A head of `diff` and `shared_diff` has two streams of queries and of keys over one value, a pair of heads of `diff_v2`
two streams of queries over one key and one value, a head of the standard Transformer one of each.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from model.documents import Documents
from model.kernels.machine import Machine
from model.recompute import ActivationCheckpointing


@dataclass(frozen=True)
class Maps:
    """The attention maps that share a value."""

    queries: int
    """streams of queries, each of which makes a map: one, or two whose difference counts"""
    keys: int
    """streams of keys: one that all queries read, or one for each; a value is as many times K wide"""


PLAIN = Maps(queries=1, keys=1)
SHARED_KEYS = Maps(queries=2, keys=1)
TWO_STREAMS = Maps(queries=2, keys=2)


@dataclass(frozen=True)
class Case:
    """What a form may have to serve."""

    machine: Machine
    dtype: torch.dtype
    maps: Maps
    head_dim: int
    """of one stream of queries or keys, K"""
    length: int
    """tokens of a sequence; a form serves others, too, but may be slower than another one there"""
    documents: bool = False
    """whether attention stays inside documents"""

    @property
    def value_width(self) -> int:
        """Of a value."""
        return self.maps.keys * self.head_dim


@dataclass(frozen=True)
class Heads:
    """The heads of one rank, for counting what is kept of them."""

    maps: Maps
    heads: int
    """values that are read: H, or 2H of the standard Transformer"""
    groups: int
    """values that there are, G"""
    head_dim: int


@dataclass(frozen=True)
class Kept:
    """What the backward pass needs of one token."""

    elements: int
    """in the tensors' type"""
    numbers: int
    """in fp32"""
    result: bool = False
    """and the result, which costs nothing where its reader keeps the same tensor"""


class Form(ABC):
    """One form; it has no state."""

    name: str
    """what `train.attention_form` says"""
    title: str
    """for people"""
    keeps_inputs_only: ClassVar[bool]
    """the backward pass makes everything again by itself, so that recomputing this product would save nothing"""
    keeps_copies: ClassVar[bool]
    """what the backward pass needs of keys or values are copies: where they are gathered from other ranks, the product
    is recomputed, or these would stay"""

    def is_recomputed(self, mode: ActivationCheckpointing, gathered: bool) -> bool:
        """Whether its product is computed again in the backward pass, short of whole blocks.

        Args:
            gathered: it reads keys and values of all tokens, of which this rank has a part (``Split.gathers``).
        """
        asked_for = mode == "selective" or (gathered and self.keeps_copies)
        return asked_for and not self.keeps_inputs_only

    @abstractmethod
    def refusal(self, case: Case) -> str | None:
        """Why it cannot serve ``case``, as in "needs a CUDA device"; None: it can."""

    @abstractmethod
    def softmax(self, q_UBNK: Tensor, k_TBGK: Tensor, v_TBGK: Tensor, documents: Documents | None) -> Tensor:
        """softmax(Q K^T / sqrt K) V: [U, B, N, K]. N is a multiple of G: query head j reads key head j // (N/G)."""

    @abstractmethod
    def difference(
        self, q_UBHSK: Tensor, k_TBGSK: Tensor, v_TBGE: Tensor, weight: Tensor, documents: Documents | None
    ) -> Tensor:
        """(softmax(Q1 K1^T / sqrt K) - weight softmax(Q2 K2^T / sqrt K)) V: [U, B, H, E], in the values' type.

        Args:
            q_UBHSK: queries of both streams, S = 2. H is a multiple of G: head h reads key/value head h // (H/G).
            k_TBGSK: keys, S = 2, or S = 1: one that both queries read.
            v_TBGE: values, E = S K for the keys' S.
            weight: lambda in fp32 or better: a scalar, or [U, B, H, 1].
            documents: attention stays inside them; as ``prepared`` gave them, of that part of the tokens if U < T.
        """

    @abstractmethod
    def prepared(self, documents: Documents, dtype: torch.dtype) -> Documents:
        """The documents with what this form reads of them, made once per micro-batch on their device."""

    @abstractmethod
    def layout_elements(self, keys: int) -> int:
        """What ``prepared`` adds for each query of so many keys, in elements of the tensors' type."""

    @abstractmethod
    def kept(self, heads: Heads) -> Kept:
        """What stays for the backward pass: queries, keys and values, and what is made of them.

        Not the result: whoever reads it keeps it.
        """

    @abstractmethod
    def workspace(self, heads: Heads, sequences: int, queries: int, keys: int, element_bytes: int) -> int:
        """Most bytes that its backward pass holds for a moment, its gradients included; queries and keys of a sequence.

        0 where that is less than the feed-forward network has let go of by then.
        """
