"""`diff_v2`: DIFF V2, a difference of paired heads whose weight every token computes for itself.

In: x_TBD. Out: attention [T, B, D], and the declarations of this kind. Always: 2H query heads of K in H pairs over G
key/value heads of K, H unless `model.num_kv_heads` says less; the two query heads of a pair share a key/value head.
"""

import torch
from torch import Tensor

from model.attention_numbers import record_pairs
from model.config import ModelConfig
from model.distributions import Distribution, reading, writing
from model.kernels.forms.base import SHARED_KEYS
from model.kernels.kept import Kernels
from model.kinds.base import Attention, Reading
from model.kinds.heads import check_groups, product_bytes, rank_heads
from model.kinds.plain import PlainHeads
from model.layout import Layout
from model.split import Split
from model.surroundings import Surroundings


class DiffV2Attention(Attention):
    """Head 2i of pair i minus sigmoid(lambda_i) times head 2i+1, with lambda = x W_lambda. No head norm."""

    def __init__(self, config: ModelConfig, groups: int, around: Surroundings) -> None:
        super().__init__(config, around)
        sharding = around.sharding
        H, K, D = config.num_heads, config.head_dim, config.hidden_size
        self.query = sharding.column_linear(D, 2 * H * K)
        self.key = sharding.column_linear(D, groups * K)
        self.value = sharding.column_linear(D, groups * K)
        self.lambda_proj = sharding.column_linear(D, H)
        self.output = sharding.row_linear(H * K, D)

    def forward(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        heads_of_K = (-1, self.config.head_dim)
        layers = [self.query, self.key, self.value, self.lambda_proj]
        *heads, lambda_TBH = self.sharding.columns(x_TBD, layers)
        q, k, v = (y.unflatten(-1, heads_of_K) for y in heads)
        v = v.contiguous()  # a view would keep q and k, too
        q, k = self.rotated(q, k, layout)
        weight_TBH1 = lambda_TBH.to(torch.promote_types(v.dtype, torch.float32)).sigmoid()[..., None]
        if self.recorder.recording:
            self.recorder.record("lambda", weight_TBH1, "mean")
            queries, keys, weights = (self.context.whole(x) for x in (q, k, weight_TBH1))
            record_pairs(self.recorder, queries, keys, weights, layout.document_starts_TB)
        heads_TBHK = self.difference_by_token(q.unflatten(2, (-1, 2)), k.unsqueeze(3), v, weight_TBH1, layout)
        return self.output(heads_TBHK.flatten(2))


class DiffV2(PlainHeads):
    """The declarations."""

    name = "diff_v2"
    maps = SHARED_KEYS
    weighs_by_token = True
    readings = (Reading("", "diff_v2", {}),)

    def check(self, config: ModelConfig) -> None:
        check_groups(config, config.num_heads, "model.num_heads, so that the two query heads of a pair share one")

    def key_value_heads(self, config: ModelConfig) -> int:
        return config.num_kv_heads or config.num_heads

    def build(self, config: ModelConfig, layer: int, around: Surroundings) -> Attention:
        return DiffV2Attention(config, self.key_value_heads(config), around)

    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        return {
            "query.weight": reading(config),
            "key.weight": reading(config),
            "value.weight": reading(config),
            "lambda_proj.weight": reading(config),
            "output.weight": writing(config),
        }

    def matrices(self, config: ModelConfig) -> dict[str, int]:
        D, H, K = config.hidden_size, config.num_heads, config.head_dim
        key = D * self.key_value_heads(config) * K
        return {"query and key": D * 2 * H * K + key, "value": key, "output": D * H * K, "lambda": D * H}

    def kept_bytes(self, config: ModelConfig, split: Split, kernels: Kernels) -> int:
        """What the form keeps, of H/t pairs; the difference h K, which the output layer reads; sigmoid h in fp32, and
        the same of all tokens of some heads, where these were exchanged."""
        heads = rank_heads(self.maps, config, self.key_value_heads(config), split)
        product = product_bytes(heads, split, kernels)
        again = kernels.attention.is_recomputed(split.activation_checkpointing, split.gathers)
        exchanged = split.context_size > 1 and split.context_exchange == "heads" and not again
        weights = 4 * heads.heads * split.tokens * (2 if exchanged else 1)
        return product + split.bytes_of(heads.heads * config.head_dim) + weights
