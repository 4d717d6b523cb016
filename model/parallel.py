"""The one interface through which layers are plain or sharded, and what each parameter says about itself.

In: sizes of whole (unsharded) matrices. Out: modules and parameters that hold this rank's part, and the few
operations at which data crosses between ranks. Always: a layer written against ``Sharding`` reads as plain
PyTorch; with ``Unsharded`` every operation is the identity or a plain matrix product.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.exchange import Entering, InputExchange
from model.packed import linear, packed_linear
from model.recorder import weight_was_used
from model.unpacked import SplitInput, linear_of_split_input

Product = Callable[..., Tensor]
"""(inputs of a linear layer, its weight [out, in], how the output leaves: model/leaving.py) to its output"""
TouchedBy = Literal["heads", "tokens"]
"""Which of the activations one rank has that meet a replicated parameter: those of its heads, or of its tokens."""


@dataclass(frozen=True)
class ParameterInfo:
    """What the rest of the framework needs to know about one parameter, whatever the topology."""

    name: str
    """logical name, the same under every topology"""
    full_shape: tuple[int, ...]
    """shape of the whole parameter"""
    shard_dim: int | None = None
    """dimension split over the tensor-parallel ranks in equal contiguous parts; None: replicated"""
    partial_gradient: bool = False
    """this rank's gradient is one summand: the gradient is the sum over the tensor-parallel group"""
    matrix: bool = False
    """the last two dimensions are a linear map inside a block, those before them a stack of such; embedding and head,
    whose one side is the vocabulary, are none"""

    @property
    def decay(self) -> bool:
        """Weight decay acts on matrices (and stacks of them), not on norms and lambda vectors."""
        return len(self.full_shape) >= 2


def describe(parameter: nn.Parameter, info: ParameterInfo) -> nn.Parameter:
    """Attaches ``info``; a sharded parameter also gets the mark that gradient clipping looks for."""
    parameter.info = info  # type: ignore[attr-defined]
    if info.shard_dim is not None:
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
    return parameter


def info_of(parameter: nn.Parameter) -> ParameterInfo:
    """The ParameterInfo that ``describe`` attached."""
    return parameter.info  # type: ignore[attr-defined]


def logical_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of ``module`` by logical name, whatever wraps the layers (a pipeline stage, an engine)."""
    return {info_of(parameter).name: parameter for parameter in module.parameters()}


class Sharding(ABC):
    """How layers are split over the ranks of one tensor-parallel group.

    Under sequence parallelism every activation between the layers holds a contiguous T/size part of the sequence.
    Between ``columns`` and a row-parallel layer the whole sequence is present and the features are split.
    """

    size: int
    """ranks of the group"""
    rank: int
    """this rank in the group"""
    group: Any
    """the torch.distributed process group; None where there is none"""
    sequence_parallel: bool
    """activations between the layers are split along the sequence"""
    exchange: InputExchange
    """how the input of column-parallel layers becomes whole, and its gradient is summed"""
    packs: bool
    """column layers of one input run as one product; not under ZeRO 3, which gathers a layer's weight when it runs"""

    @abstractmethod
    def column_linear(self, in_features: int, out_features: int) -> nn.Module:
        """Module x [..., in] -> this rank's columns [..., out/size]; ``columns`` runs it."""

    @abstractmethod
    def row_linear(self, in_features: int, out_features: int, product: Product = linear) -> nn.Module:
        """Module from this rank's features [..., in/size] to the sum over all ranks [..., out] (its sequence part).

        What it is called with, and its weight, go through ``product``.
        """

    @abstractmethod
    def vocab_embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        """Module tokens_BT -> x_TBD (this rank's part of the sequence); its ``weight`` is split by vocabulary."""

    @abstractmethod
    def gather_columns(self, x: Tensor) -> Tensor:
        """[..., n/size] on each rank -> [..., n] on all, to be used by each rank for its own heads."""

    @abstractmethod
    def largest_of_ranks(self, x: Tensor) -> Tensor:
        """Element by element the largest of all ranks' ``x``, in place and without a gradient."""

    @abstractmethod
    def sum_of_ranks(self, x: Tensor) -> Tensor:
        """Element by element the sum of all ranks' ``x``, in place and without a gradient."""

    def columns(
        self, x: Tensor, layers: Sequence[nn.Module], own: Sequence[Tensor] = (), shared: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """``x`` [T or T/size, ...] of the whole sequence through several linear maps; backward sums over the ranks.

        Results may be views of one tensor (model/packed.py). Kept for the backward pass is ``x``, not the whole of it.

        Args:
            layers: made by ``column_linear``.
            own: further weights [n, D], of this rank's heads.
            shared: further weights [n, D], the same on every rank, which needs all of their results for its heads.
                Under sequence parallelism each rank works on its own tokens and the small results are gathered, so no
                product is computed twice.
        """
        if not (shared and self.sequence_parallel):
            return self._products(x, layers, [*own, *shared])
        small = self.enter(torch.cat(packed_linear(x, shared), dim=-1))
        return *self._products(x, layers, own), *small.split([len(weight) for weight in shared], dim=-1)

    def enter(self, x: Tensor) -> Tensor:
        """Makes ``x`` [T or T/size, ...] whole for what is split over the ranks; backward sums their gradients.

        What reads the whole keeps it for its backward pass: for small ``x``. ``columns`` keeps this rank's part.
        """
        whole: Tensor = Entering.apply(x, self.exchange)
        return whole

    def vocab_linear(self, hidden_size: int, vocab_size: int) -> nn.Module:
        """``column_linear`` onto the vocabulary."""
        head = self.column_linear(hidden_size, vocab_size)
        weight = head.get_parameter("weight")
        describe(weight, replace(info_of(weight), matrix=False))
        return head

    def replicated(self, *shape: int, touched_by: TouchedBy, matrix: bool = False) -> nn.Parameter:
        """An uninitialised parameter that every rank holds whole.

        Where ``touched_by`` says that one rank sees only some of what the parameter acts on, its gradient is partial.
        """
        partial = self.size > 1 and (touched_by == "heads" or self.sequence_parallel)
        return describe(nn.Parameter(torch.empty(*shape)), ParameterInfo("", shape, None, partial, matrix))

    def own_heads(self, x_H: Tensor) -> Tensor:
        """The part of a replicated [H, ...] tensor that belongs to this rank's heads."""
        heads_per_rank = x_H.shape[0] // self.size
        return x_H.narrow(0, self.rank * heads_per_rank, heads_per_rank)

    def _products(self, x: Tensor, layers: Sequence[nn.Module], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``columns`` without ``shared``."""
        if self.packs:
            of_layers = [layer.get_parameter("weight") for layer in layers]
            results = packed_linear(x, [*of_layers, *weights], self.exchange)
            for layer in layers:
                weight_was_used(layer)
            return results
        whole = self.enter(x)
        if not self.exchange.gathers:
            return *(layer(whole) for layer in layers), *(F.linear(whole, weight) for weight in weights)
        split = SplitInput(x, self.exchange, readers=len(layers) + len(weights))
        return (
            *(layer(whole, split) for layer in layers),
            *(linear_of_split_input(whole, weight, split) for weight in weights),
        )


class Unsharded(Sharding):
    """One process holds everything, or ZeRO all but one layer."""

    size = 1
    rank = 0
    group = None
    sequence_parallel = False
    exchange = InputExchange()

    def __init__(self, packs: bool = True) -> None:
        self.packs = packs

    def column_linear(self, in_features: int, out_features: int) -> nn.Module:
        return Linear(in_features, out_features)

    def row_linear(self, in_features: int, out_features: int, product: Product = linear) -> nn.Module:
        return Linear(in_features, out_features, product)

    def vocab_embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return TokenTable(vocab_size, hidden_size)

    def gather_columns(self, x: Tensor) -> Tensor:
        return x

    def largest_of_ranks(self, x: Tensor) -> Tensor:
        return x

    def sum_of_ranks(self, x: Tensor) -> Tensor:
        return x


class Linear(nn.Module):
    """y = x W^T without bias; the weight is allocated, not initialised (model/init.py does that).

    ``product`` makes y of the inputs and the weight.
    """

    def __init__(self, in_features: int, out_features: int, product: Product = linear) -> None:
        super().__init__()
        self.product = product
        shape = (out_features, in_features)
        self.weight = describe(nn.Parameter(torch.empty(shape)), ParameterInfo("", shape, matrix=True))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.product(*inputs, self.weight)


class TokenTable(nn.Module):
    """tokens_BT -> x_TBD by look-up; the weight is allocated, not initialised."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        shape = (vocab_size, hidden_size)
        self.weight = describe(nn.Parameter(torch.empty(shape)), ParameterInfo("", shape))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT.t(), self.weight)
