"""`diff`: DIFF V1, a query and key projection of its own for each head and stream.

In: x_TBD. Out: attention [T, B, D], and the declarations of this kind. Always: what model/kinds/differential.py says.
"""

from typing import Any, ClassVar

from torch import Tensor

from model.config import ModelConfig
from model.distributions import Distribution, reading
from model.kinds.base import Attention, Reading, Recipe
from model.kinds.differential import Differential, DifferentialAttention
from model.split import LayerCommunication, Split
from model.surroundings import Surroundings


class DiffAttention(DifferentialAttention):
    """Queries and keys by two plain matrices, rows ordered (head, stream, k)."""

    def __init__(self, config: ModelConfig, groups: int, layer: int, around: Surroundings) -> None:
        super().__init__(config, groups, layer, around)
        sharding = around.sharding
        D, K = config.hidden_size, config.head_dim
        self.query = sharding.column_linear(D, config.num_heads * 2 * K)
        self.key = sharding.column_linear(D, groups * 2 * K)

    def projections(self, x_TBD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = (-1, 2, self.config.head_dim)
        query, key, value = self.sharding.columns(x_TBD, [self.query, self.key, self.value])
        return query.unflatten(-1, heads), key.unflatten(-1, heads), value


class Diff(Differential):
    """The declarations."""

    name = "diff"
    settings: ClassVar[frozenset[str]] = frozenset()
    readings = (Reading("", "diff", {}),)
    converts_into: ClassVar[frozenset[str]] = frozenset()
    widens: ClassVar[dict[str, tuple[Any, Any]]] = {}

    def build(self, config: ModelConfig, layer: int, around: Surroundings) -> Attention:
        return DiffAttention(config, self.key_value_heads(config), layer, around)

    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        return {"query.weight": reading(config), "key.weight": reading(config), **super().initial(config)}

    def matrices(self, config: ModelConfig) -> dict[str, int]:
        heads = config.num_heads + self.key_value_heads(config)
        return {"query and key": config.hidden_size * heads * 2 * config.head_dim, **super().matrices(config)}

    def exchanges(self, config: ModelConfig, split: Split) -> list[LayerCommunication]:
        return []

    def recipe(self, source: ModelConfig, target: ModelConfig, name: str) -> Recipe | None:
        return None
