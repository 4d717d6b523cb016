"""What a kind of attention declares: its module, and every number that the framework asks about it.

In: a ModelConfig. Out: the abstract classes Attention (the layer) and Kind (the declarations). Always: nothing has a
default: a kind that leaves something out cannot be made. Shapes follow the legend in model/config.py; parameters go by
their names inside the attention layer ("query.weight"), and counts are those of one block.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from model.config import ModelConfig
from model.context.base import Product
from model.distributions import Distribution
from model.kernels.forms.base import Maps
from model.kernels.kept import Kernels
from model.layout import Layout
from model.recompute import recomputed
from model.split import LayerCommunication, Split
from model.surroundings import Surroundings


class Attention(nn.Module):
    """What the layers of all kinds share: sizes, rotary positions, and whether the attention product is recomputed.

    Heads are split over the tensor-parallel ranks; ``x`` enters the split region once for all projections, so its
    gradient is summed over the ranks once.
    """

    def __init__(self, config: ModelConfig, around: Surroundings) -> None:
        super().__init__()
        self.config = config
        self.sharding = around.sharding
        self.recorder = around.recorder
        self.heads_per_rank = config.num_heads // around.sharding.size
        self.context = around.context
        self.form = around.kernels.attention
        self.rotary = around.kernels.rowwise.rotary
        self.recompute_product = self.form.is_recomputed(around.recompute, around.context.gathers)

    @abstractmethod
    def forward(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        """Attention output [T, B, D]; T is this rank's part of the sequence where it is split."""

    def rotated(self, q: Tensor, k: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Queries and keys [T, B, ..., K] with rotary positions that restart at document starts."""
        return self.rotary(q, layout.angles), self.rotary(k, layout.angles)

    def softmax_product(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """The form's ``softmax``."""
        return self._attend(self.form.softmax, q, k, v, (), layout)

    def difference(self, q: Tensor, k: Tensor, v: Tensor, weight: Tensor, layout: Layout) -> Tensor:
        """The form's ``difference`` with one ``weight``, a scalar, for all tokens and heads."""
        return self._attend(partial(self.form.difference, weight=weight), q, k, v, (), layout)

    def difference_by_token(self, q: Tensor, k: Tensor, v: Tensor, weight_TBH1: Tensor, layout: Layout) -> Tensor:
        """The form's ``difference`` with a weight for each token and head."""
        return self._attend(self.form.difference, q, k, v, (weight_TBH1,), layout)

    def _attend(
        self, product: Product, q: Tensor, k: Tensor, v: Tensor, by_token: Sequence[Tensor], layout: Layout
    ) -> Tensor:
        """``product`` with the keys and values of all tokens, recomputed in the backward pass where asked for."""
        attend = partial(self.context.attend, product)
        arguments = q, k, v, by_token, layout.documents
        return recomputed(attend, *arguments) if self.recompute_product else attend(*arguments)


@dataclass(frozen=True)
class Reading:
    """One way to read a kind's equations, where the paper leaves several."""

    label: str
    """in words, after the kind's name; empty for the only one"""
    heading: str
    """in a table's heading"""
    settings: Mapping[str, Any]
    """the ModelConfig settings that choose it"""


@dataclass(frozen=True)
class Recipe:
    """How a tensor is made of parameters."""

    sources: tuple[str, ...]
    """their names"""
    make: Callable[[Sequence[Tensor]], Tensor]
    """the tensor from their values, in the order of ``sources``"""


class Kind(ABC):
    """One kind of attention. The class attributes, too, have no defaults."""

    name: ClassVar[str]
    """what `model.attention` says"""
    settings: ClassVar[frozenset[str]]
    """ModelConfig settings that this kind alone reads"""
    readings: ClassVar[tuple[Reading, ...]]
    """all its readings"""
    converts_into: ClassVar[frozenset[str]]
    """names of the other kinds whose function its weights can be written as, exactly: ``recipe`` tells how"""
    maps: ClassVar[Maps]
    """the attention maps that share a value"""
    weighs_by_token: ClassVar[bool]
    """every token has a weight of its own for the second map of each head"""
    widens: ClassVar[Mapping[str, tuple[Any, Any]]]
    """setting of ``settings`` -> (from, to): the change that its own weights can follow, exactly"""

    def __init__(self) -> None:
        missing = [name for name in Kind.__annotations__ if not hasattr(self, name)]
        if missing:
            raise TypeError(f"{type(self).__name__} does not declare {', '.join(missing)}")

    @abstractmethod
    def check(self, config: ModelConfig) -> None:
        """Raises InputError, which names the setting, for sizes that this kind cannot have."""

    @abstractmethod
    def key_value_heads(self, config: ModelConfig) -> int:
        """Its key/value heads G, each as this kind counts them."""

    @abstractmethod
    def build(self, config: ModelConfig, layer: int, around: Surroundings) -> Attention:
        """The layer of block ``layer``, counted from 0; its parameters are allocated, not initialised.

        The recorder takes its numbers under their bare names, as in "entropy".
        """

    @abstractmethod
    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        """What the initial value of each parameter is drawn from."""

    @abstractmethod
    def matrices(self, config: ModelConfig) -> dict[str, int]:
        """Elements of the matrices, each of which costs 2 operations for a token and element, by part."""

    @abstractmethod
    def vectors(self, config: ModelConfig) -> dict[str, int]:
        """Elements of all other parameters, by part."""

    @abstractmethod
    def product_flops(self, config: ModelConfig, sequence_length: int) -> tuple[int, float]:
        """Forward operations of the attention product for one token: (of the equation, as kernels run it).

        The equation's count takes the whole T x T square although half of it is masked, as is usual (PaLM, appendix
        B), so that figures compare with published ones.
        """

    @abstractmethod
    def divided(self, config: ModelConfig) -> dict[str, int]:
        """What tensor parallelism divides among its ranks, by the setting's name."""

    @abstractmethod
    def exchanges(self, config: ModelConfig, split: Split) -> list[LayerCommunication]:
        """What tensor-parallel ranks exchange between the entering of x and the leaving of the output."""

    @abstractmethod
    def partial_gradients(self, config: ModelConfig) -> dict[str, int]:
        """Elements of replicated parameters whose gradient is the sum over the tensor-parallel group, by part."""

    @abstractmethod
    def kept_bytes(self, config: ModelConfig, split: Split, kernels: Kernels) -> int:
        """What the backward pass needs between the entered input and the output layer's input, the latter included.

        Rotary angles are not counted here. ``split.activation_checkpointing`` is "none" or "selective".
        """

    @abstractmethod
    def recipe(self, source: ModelConfig, target: ModelConfig, name: str) -> Recipe | None:
        """How parameter ``name`` of ``target`` is made of the parameters of ``source``, which is of this kind.

        ``target`` is one of ``converts_into``, or of this kind with ``widens`` applied. None: as it is stored.
        """

    @abstractmethod
    def constant_lambda(self, config: ModelConfig, layer: int, read: Callable[[str], Tensor]) -> float | None:
        """lambda of block ``layer``; ``read`` gives a parameter. None where there is none, or tokens decide on it."""
