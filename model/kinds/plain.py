"""What kinds whose attention is one softmax over heads of K declare alike: all of it sharded, nothing replicated.

In: a ModelConfig. Out: the part of the declarations that does not depend on what is done with the heads' outputs.
Always: the query heads of this rank read the key/value heads of this rank.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from model.config import ModelConfig
from model.kinds.base import Kind, Recipe
from model.kinds.heads import equation_flops
from model.split import LayerCommunication, Split


class PlainHeads(Kind):
    """The declarations that the kinds share."""

    settings: ClassVar[frozenset[str]] = frozenset()
    weighs_by_token: ClassVar[bool] = False
    converts_into: ClassVar[frozenset[str]] = frozenset()
    widens: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def vectors(self, config: ModelConfig) -> dict[str, int]:
        return {}

    def product_flops(self, config: ModelConfig, sequence_length: int) -> tuple[int, float]:
        equation = equation_flops(config, sequence_length)
        return equation, equation / 2  # the masked half is left out

    def divided(self, config: ModelConfig) -> dict[str, int]:
        return {"model.num_heads": config.num_heads, "model.num_kv_heads": self.key_value_heads(config)}

    def exchanges(self, config: ModelConfig, split: Split) -> list[LayerCommunication]:
        return []

    def partial_gradients(self, config: ModelConfig) -> dict[str, int]:
        return {}

    def recipe(self, source: ModelConfig, target: ModelConfig, name: str) -> Recipe | None:
        return None

    def constant_lambda(self, config: ModelConfig, layer: int, read: Callable[[str], Tensor]) -> float | None:
        return None
