"""How a block's work is split, and the exchanges that a split costs: the words in which layers tell what they send.

In: sizes. Out: Split, and LayerCommunication made of `entering`, `gathering` and `leaving`. Always: pure arithmetic;
the functions are the ledger of the operations of the same meaning in model/parallel.py.
"""

from dataclasses import dataclass
from typing import Literal

from model.recompute import ActivationCheckpointing

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
Ranks = Literal["tensor", "context"]
"""who exchanges inside a layer: those that split its features, or those that split the tokens of samples"""
ContextExchange = Literal["gather", "heads"]
"""how attention reaches across the parts of a sample (model/context)"""


@dataclass(frozen=True)
class Collective:
    """One exchange inside a layer."""

    operation: Operation
    purpose: str
    """what is exchanged, in words"""
    whole_bytes: int
    """size of the whole tensor: what an all-reduce sums, an all-gather returns, a reduce-scatter takes; what a rank has
    before or after an all-to-all"""
    beside: int = 0
    """floating-point operations of this rank that go on meanwhile"""
    pieces: int = 1
    """in which the tensor travels, the first when as large a part of those operations is done, or the last while it is;
    1: with their begin"""
    ranks: Ranks = "tensor"
    """who exchanges; those of ``context`` have the attention product beside it, others a linear layer's"""

    def wire_bytes(self, ranks: int) -> float:
        """Bytes that each rank sends with ring algorithms."""
        passes = 2 if self.operation == "all_reduce" else 1
        return passes * self.whole_bytes * (ranks - 1) / ranks


@dataclass(frozen=True)
class LayerCommunication:
    """The collectives of one layer for one micro-batch; autograd decides on the order of those going backward."""

    forward: tuple[Collective, ...] = ()
    backward: tuple[Collective, ...] = ()


@dataclass(frozen=True)
class Split:
    """What bytes depend on besides the model."""

    tensor_size: int
    sequence_parallel: bool
    micro_size: int
    """sequences per forward pass"""
    sequence_length: int
    """of whole samples, T"""
    element_bytes: int
    """of activations: 2 for bf16, 4 for fp32"""
    activation_checkpointing: ActivationCheckpointing = "none"
    row_pieces: int = 1
    """in which the output of a row-parallel layer leaves under sequence parallelism"""
    context_size: int = 1
    """ranks that share the tokens of a sample"""
    context_exchange: ContextExchange = "gather"
    context_pieces: int = 1
    """in which keys and values are gathered over them"""
    attends_again: bool = False
    """the attention product is computed again in the backward pass (``Form.is_recomputed``)"""

    @property
    def gathers(self) -> bool:
        """Keys and values of all tokens are gathered for the attention product, and let go of."""
        return self.context_size > 1 and self.context_exchange == "gather"

    @property
    def own_length(self) -> int:
        """Tokens of a sample that this rank has."""
        return self.sequence_length // self.context_size

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch that this rank has."""
        return self.micro_size * self.own_length

    def bytes_of(self, width: int) -> int:
        """Size of this rank's activations of one micro-batch, ``width`` elements for each token."""
        return self.tokens * width * self.element_bytes


def entering(split: Split, width: int, purpose: str, columns: int) -> LayerCommunication:
    """``Sharding.columns`` of an input of ``width`` features onto at least ``columns`` on each rank.

    With sequence parallelism the input is gathered again in the backward pass. Either exchange there has a product
    beside it: the input's gradient, then the weights'.
    """
    whole, product = split.bytes_of(width), 2 * split.tokens * width * columns
    if not split.sequence_parallel:
        return LayerCommunication((), (Collective("all_reduce", f"gradient of {purpose}", whole, product),))
    return LayerCommunication(
        (Collective("all_gather", purpose, whole),),
        (
            Collective("all_gather", f"{purpose}, again", whole, product),
            Collective("reduce_scatter", f"gradient of {purpose}", whole, product),
        ),
    )


def gathering(split: Split, width: int, purpose: str) -> LayerCommunication:
    """A gather along the sequence or the features."""
    whole = split.bytes_of(width)
    return LayerCommunication(
        (Collective("all_gather", purpose, whole),), (Collective("reduce_scatter", f"gradient of {purpose}", whole),)
    )


def leaving(split: Split, width: int, purpose: str, features: int = 0) -> LayerCommunication:
    """The sum over ranks at the end of a row-parallel layer of ``features`` on each rank, or of a vocabulary-parallel
    look-up, which has none. With sequence parallelism the layer's output leaves beside its product, in pieces."""
    whole = split.bytes_of(width)
    if split.sequence_parallel:
        pieces = min(split.row_pieces, split.own_length // split.tensor_size) if features else 1
        product = 2 * split.tokens * width * features if pieces > 1 else 0
        return LayerCommunication(
            (Collective("reduce_scatter", purpose, whole, product, pieces),),
            (Collective("all_gather", f"gradient of {purpose}", whole),),
        )
    return LayerCommunication((Collective("all_reduce", purpose, whole),))
