"""`standard`: the multi-head attention of the matched Transformer, as in LLaMA.

In: x_TBD. Out: attention [T, B, D] of 2H heads of K, and the declarations of this kind. Always: G key/value heads of K,
2H unless `model.num_kv_heads` says less; every one serves 2H/G query heads.
"""

from torch import Tensor

from model.attention_numbers import record_maps
from model.config import ModelConfig
from model.distributions import Distribution, reading, writing
from model.kernels.forms.base import PLAIN
from model.kernels.kept import Kernels
from model.kinds.base import Attention, Reading
from model.kinds.heads import check_groups, product_bytes, rank_heads
from model.kinds.plain import PlainHeads
from model.layout import Layout
from model.split import Split
from model.surroundings import Surroundings


class StandardAttention(Attention):
    """Multi-head attention with grouped key/value heads."""

    def __init__(self, config: ModelConfig, groups: int, around: Surroundings) -> None:
        super().__init__(config, around)
        sharding = around.sharding
        D, K, width = config.hidden_size, config.head_dim, 2 * config.num_heads * config.head_dim
        self.query = sharding.column_linear(D, width)
        self.key = sharding.column_linear(D, groups * K)
        self.value = sharding.column_linear(D, groups * K)
        self.output = sharding.row_linear(width, D)

    def forward(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        heads_of_K = (-1, self.config.head_dim)
        q, k, v = (
            y.unflatten(-1, heads_of_K) for y in self.sharding.columns(x_TBD, [self.query, self.key, self.value])
        )
        v = v.contiguous()  # a view would keep q and k, too
        q, k = self.rotated(q, k, layout)
        if self.recorder.recording:
            queries, keys = self.context.whole(q), self.context.whole(k)
            record_maps(self.recorder, queries, keys, layout.document_starts_TB)
        return self.output(self.softmax_product(q, k, v, layout).flatten(2))


class Standard(PlainHeads):
    """The declarations."""

    name = "standard"
    maps = PLAIN
    readings = (Reading("", "standard", {}),)

    def check(self, config: ModelConfig) -> None:
        check_groups(config, 2 * config.num_heads, "the 2 x model.num_heads heads of standard")

    def key_value_heads(self, config: ModelConfig) -> int:
        return config.num_kv_heads or 2 * config.num_heads

    def build(self, config: ModelConfig, layer: int, around: Surroundings) -> Attention:
        return StandardAttention(config, self.key_value_heads(config), around)

    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        return {
            "query.weight": reading(config),
            "key.weight": reading(config),
            "value.weight": reading(config),
            "output.weight": writing(config),
        }

    def matrices(self, config: ModelConfig) -> dict[str, int]:
        D, K = config.hidden_size, config.head_dim
        query, key = D * 2 * config.num_heads * K, D * self.key_value_heads(config) * K
        return {"query and key": query + key, "value": key, "output": query}

    def kept_bytes(self, config: ModelConfig, split: Split, kernels: Kernels) -> int:
        """What the form keeps, of 2H/t heads; the output h K, which the output layer reads."""
        heads = rank_heads(self.maps, config, self.key_value_heads(config), split)
        return product_bytes(heads, split, kernels) + split.bytes_of(heads.heads * config.head_dim)
