"""The differential form of DIFF V1, which `diff` and `shared_diff` have in common.

In: queries and keys of both streams, wherever they come from. Out: the layer's other half, and its declarations.
Always: (A1 - lambda A2) V for each head, values 2K wide, head norm and (1 - lambda_init); G key/value heads, each with
two keys and a value, H unless `model.num_kv_heads` says less. Both streams of a head read the same key/value head: in
DIFF V2's experiments training was unstable where a pair's heads lay in different groups.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from model.attention_numbers import record_streams
from model.config import ModelConfig
from model.distributions import ONES, Distribution, Normal, reading, writing
from model.kernels.forms.base import TWO_STREAMS
from model.kernels.kept import Kernels, norm_bytes
from model.kinds.base import Attention, Kind
from model.kinds.heads import check_groups, equation_flops, product_bytes, rank_heads
from model.layout import Layout
from model.norm import Norm
from model.recorder import look_at_weight
from model.split import Split
from model.surroundings import Surroundings

LAMBDA_VECTORS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


class DifferentialAttention(Attention):
    """The layer; subclasses say where queries and keys come from."""

    def __init__(self, config: ModelConfig, groups: int, layer: int, around: Surroundings) -> None:
        super().__init__(config, around)
        sharding = around.sharding
        K, D = config.head_dim, config.hidden_size
        self.lambda_init = config.lambda_init_of(layer)
        self.value = sharding.column_linear(D, groups * 2 * K)
        self.output = sharding.row_linear(config.num_heads * 2 * K, D)
        self.lambda_q1 = sharding.replicated(K, touched_by="heads")
        self.lambda_k1 = sharding.replicated(K, touched_by="heads")
        self.lambda_q2 = sharding.replicated(K, touched_by="heads")
        self.lambda_k2 = sharding.replicated(K, touched_by="heads")
        if config.head_norm:
            self.head_norm = Norm(2 * K, config.norm_eps, around, touched_by="heads")
            look_at_weight(self.head_norm, around.recorder, self._record_gains)

    @abstractmethod
    def projections(self, x_TBD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(q_TBHSK, k_TBGSK, x W_V) of this rank's heads."""

    def forward(self, x_TBD: Tensor, layout: Layout) -> Tensor:
        q, k, v = self.projections(x_TBD)
        q, k = self.rotated(q, k, layout)
        v = v.unflatten(-1, (-1, 2 * self.config.head_dim)).contiguous()  # a view would keep q and k, too
        lambda_full = self.lambda_full()
        if self.recorder.recording:
            self.recorder.record("lambda", lambda_full, "mean")
            queries, keys = self.context.whole(q), self.context.whole(k)
            record_streams(self.recorder, queries, keys, lambda_full, layout.document_starts_TB)
        heads_TBHE = self.difference(q, k, v, lambda_full, layout)
        return self.output(self.normalised(heads_TBHE).flatten(2))

    def lambda_full(self) -> Tensor:
        """lambda as a scalar in fp32 or better."""
        return lambda_of(self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2, self.lambda_init)

    def normalised(self, heads_TBHE: Tensor) -> Tensor:
        """(1 - lambda_init) RMSNorm(head): the constant restores the scale that the norm took away.

        Without the norm the heads keep that scale by themselves (their weights sum to 1 - lambda), so nothing is done.
        """
        if not self.config.head_norm:
            return heads_TBHE
        return self.head_norm(heads_TBHE) * (1 - self.lambda_init)

    def _record_gains(self, gains: Tensor) -> None:
        self.recorder.record("head_norm_mean", gains, "mean")
        self.recorder.record("head_norm_max", gains, "max")


def lambda_of(q1_K: Tensor, k1_K: Tensor, q2_K: Tensor, k2_K: Tensor, lambda_init: float) -> Tensor:
    """exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init, in fp32 or better (DIFF paper, equation 2)."""
    precise = torch.promote_types(q1_K.dtype, torch.float32)
    first = (q1_K.to(precise) * k1_K.to(precise)).sum().exp()
    second = (q2_K.to(precise) * k2_K.to(precise)).sum().exp()
    return first - second + lambda_init


class Differential(Kind):
    """The declarations that do not depend on where queries and keys come from."""

    maps = TWO_STREAMS
    weighs_by_token = False

    def check(self, config: ModelConfig) -> None:
        check_groups(config, config.num_heads, "model.num_heads, so that both streams of a head share one")

    def key_value_heads(self, config: ModelConfig) -> int:
        return config.num_kv_heads or config.num_heads

    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        """lambda's vectors as in the DIFF paper, section 2.1."""
        return {
            "value.weight": reading(config),
            "output.weight": writing(config),
            **dict.fromkeys(LAMBDA_VECTORS, Normal(0.1)),
            **({"head_norm.weight": ONES} if config.head_norm else {}),
        }

    def matrices(self, config: ModelConfig) -> dict[str, int]:
        D, K = config.hidden_size, config.head_dim
        return {"value": D * self.key_value_heads(config) * 2 * K, "output": D * config.num_heads * 2 * K}

    def vectors(self, config: ModelConfig) -> dict[str, int]:
        return {"lambda": 4 * config.head_dim, "head norm": 2 * config.head_dim if config.head_norm else 0}

    def product_flops(self, config: ModelConfig, sequence_length: int) -> tuple[int, float]:
        """Kernels run both streams of a head on whole values, which doubles the work; the masked half is left out."""
        equation = equation_flops(config, sequence_length)
        return equation, float(equation)

    def divided(self, config: ModelConfig) -> dict[str, int]:
        return {"model.num_heads": config.num_heads, "model.num_kv_heads": self.key_value_heads(config)}

    def partial_gradients(self, config: ModelConfig) -> dict[str, int]:
        return self.vectors(config)

    def kept_bytes(self, config: ModelConfig, split: Split, kernels: Kernels) -> int:
        """Per token, with G = H and h = H/t heads on this rank:

        what the form keeps of q, k and v and makes of them; of their own they have 6 h K
        2 h K, 2 h K  head norm's input, and its output, which the output layer reads
        """
        heads = rank_heads(self.maps, config, self.key_value_heads(config), split)
        precise = split.element_bytes < 4
        head_norm = (
            norm_bytes(split.tokens * heads.heads, 2 * config.head_dim, split.element_bytes) if config.head_norm else 0
        )
        vectors = 16 * config.head_dim * precise + 12  # lambda's vectors and sums in fp32
        width = 2 * heads.heads * config.head_dim
        return product_bytes(heads, split, kernels) + head_norm + split.bytes_of(width) + vectors

    def constant_lambda(self, config: ModelConfig, layer: int, read: Callable[[str], Tensor]) -> float | None:
        q1_K, k1_K, q2_K, k2_K = (read(name) for name in LAMBDA_VECTORS)
        return float(lambda_of(q1_K, k1_K, q2_K, k2_K, config.lambda_init_of(layer)))
