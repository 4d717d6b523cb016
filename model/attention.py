"""The attention half of a block, one class per kind; shared_diff has its projections from model/shared_projection.py.

In: x_TBD, normalised, and for documents the index of each token's document start. Out: [T, B, D] to be added to the
residual stream. Always: heads are split over the tensor-parallel ranks; ``x`` enters the split region once for all
projections, so its gradient is summed over the ranks once.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.kernels.attention import differential_attention, softmax_attention
from model.norm import Norm
from model.parallel import Sharding
from model.recompute import recomputed
from model.rope import positions_TB, rotary_angles, rotate
from model.shared_projection import low_rank_per_head, with_updates


class Attention(nn.Module):
    """What the kinds share: sizes, rotary positions, and whether the attention product is recomputed."""

    def __init__(self, config: ModelConfig, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__()
        self.config = config
        self.sharding = sharding
        self.heads_per_rank = config.num_heads // sharding.size
        self.recompute_product = recompute_product

    @abstractmethod
    def forward(self, x_TBD: Tensor, document_starts_TB: Tensor | None) -> Tensor:
        """Attention output [T, B, D]; T is this rank's part of the sequence under sequence parallelism."""

    def rotated(self, q: Tensor, k: Tensor, document_starts_TB: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries and keys [T, B, ..., K] with rotary positions that restart at document starts."""
        positions = positions_TB(q.shape[0], document_starts_TB, q.device)
        angles = rotary_angles(positions, self.config.head_dim, self.config.rope_theta, q.dtype)
        return rotate(q, angles), rotate(k, angles)

    def softmax_product(self, q: Tensor, k: Tensor, v: Tensor, document_starts_TB: Tensor | None) -> Tensor:
        """``softmax_attention``, recomputed in the backward pass where asked for."""
        if self.recompute_product:
            return recomputed(softmax_attention, q, k, v, document_starts_TB)
        return softmax_attention(q, k, v, document_starts_TB)


class StandardAttention(Attention):
    """Multi-head attention of the matched Transformer: 2H heads of K."""

    def __init__(self, config: ModelConfig, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__(config, sharding, recompute_product)
        width = 2 * config.num_heads * config.head_dim
        self.query = sharding.column_linear(config.hidden_size, width)
        self.key = sharding.column_linear(config.hidden_size, width)
        self.value = sharding.column_linear(config.hidden_size, width)
        self.output = sharding.row_linear(width, config.hidden_size)

    def forward(self, x_TBD: Tensor, document_starts_TB: Tensor | None) -> Tensor:
        x_TBD = self.sharding.enter(x_TBD)
        heads = (2 * self.heads_per_rank, self.config.head_dim)
        q, k, v = (linear(x_TBD).unflatten(-1, heads) for linear in (self.query, self.key, self.value))
        q, k = self.rotated(q, k, document_starts_TB)
        return self.output(self.softmax_product(q, k, v, document_starts_TB).flatten(2))


class DifferentialAttention(Attention):
    """The differential form of DIFF V1; subclasses say where queries and keys come from."""

    def __init__(self, config: ModelConfig, layer: int, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__(config, sharding, recompute_product)
        width = config.num_heads * 2 * config.head_dim
        self.lambda_init = config.lambda_init_of(layer)
        self.value = sharding.column_linear(config.hidden_size, width)
        self.output = sharding.row_linear(width, config.hidden_size)
        self.lambda_q1 = sharding.replicated(config.head_dim, touched_by="heads")
        self.lambda_k1 = sharding.replicated(config.head_dim, touched_by="heads")
        self.lambda_q2 = sharding.replicated(config.head_dim, touched_by="heads")
        self.lambda_k2 = sharding.replicated(config.head_dim, touched_by="heads")
        if config.head_norm:
            self.head_norm = Norm(2 * config.head_dim, config.norm_eps, sharding, touched_by="heads")

    @abstractmethod
    def queries_and_keys(self, x_TBD: Tensor, entered_TBD: Tensor) -> tuple[Tensor, Tensor]:
        """(q, k), each [T, B, H, S, K] of this rank's heads; ``entered_TBD`` is ``x_TBD`` inside the split region."""

    def forward(self, x_TBD: Tensor, document_starts_TB: Tensor | None) -> Tensor:
        entered_TBD = self.sharding.enter(x_TBD)
        q, k = self.rotated(*self.queries_and_keys(x_TBD, entered_TBD), document_starts_TB)
        v = self.value(entered_TBD).unflatten(-1, (self.heads_per_rank, 2 * self.config.head_dim))
        if self.recompute_product:
            heads_TBHE = recomputed(differential_attention, q, k, v, self.lambda_full(), document_starts_TB)
        else:
            heads_TBHE = differential_attention(q, k, v, self.lambda_full(), document_starts_TB)
        return self.output(self.normalised(heads_TBHE).flatten(2))

    def lambda_full(self) -> Tensor:
        """exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init, a scalar in fp32 or better (DIFF paper, equation 2)."""
        precise = torch.promote_types(self.lambda_q1.dtype, torch.float32)
        first = (self.lambda_q1.to(precise) * self.lambda_k1.to(precise)).sum().exp()
        second = (self.lambda_q2.to(precise) * self.lambda_k2.to(precise)).sum().exp()
        return first - second + self.lambda_init

    def normalised(self, heads_TBHE: Tensor) -> Tensor:
        """(1 - lambda_init) RMSNorm(head): the constant restores the scale that the norm took away.

        Without the norm the heads keep that scale by themselves (their weights sum to 1 - lambda), so nothing is done.
        """
        if not self.config.head_norm:
            return heads_TBHE
        return self.head_norm(heads_TBHE) * (1 - self.lambda_init)


class DiffAttention(DifferentialAttention):
    """DIFF V1: a projection of its own for each head and stream."""

    def __init__(self, config: ModelConfig, layer: int, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__(config, layer, sharding, recompute_product)
        width = config.num_heads * 2 * config.head_dim
        self.query = sharding.column_linear(config.hidden_size, width)
        self.key = sharding.column_linear(config.hidden_size, width)

    def queries_and_keys(self, x_TBD: Tensor, entered_TBD: Tensor) -> tuple[Tensor, Tensor]:
        heads = (self.heads_per_rank, 2, self.config.head_dim)
        return self.query(entered_TBD).unflatten(-1, heads), self.key(entered_TBD).unflatten(-1, heads)


class SharedDiffAttention(DifferentialAttention):
    """Shared DIFF: queries and keys from shared bases and low-rank updates.

    The bases are sharded once: base `layer` over K, its small output gathered for q and k together; base `head` by
    head. The factors A and B are replicated, and a rank uses the B of its own heads. A of down `layer` acts once on
    each token (under sequence parallelism on this rank's tokens, then its R-wide output is gathered); A of down
    `head` belongs to one head and so to one rank, which needs it for the whole sequence.
    """

    def __init__(self, config: ModelConfig, layer: int, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__(config, layer, sharding, recompute_product)
        H, K, R, D = config.num_heads, config.head_dim, config.rank, config.hidden_size
        base_width = K if config.base == "layer" else H * K
        down_shape = (2, R, D) if config.down == "layer" else (H, 2, R, D)
        self.query_base = sharding.column_linear(D, base_width)
        self.key_base = sharding.column_linear(D, base_width)
        self.query_down = sharding.replicated(*down_shape, touched_by="heads")
        self.key_down = sharding.replicated(*down_shape, touched_by="heads")
        self.query_up = sharding.replicated(H, 2, K, R, touched_by="heads")
        self.key_up = sharding.replicated(H, 2, K, R, touched_by="heads")

    def queries_and_keys(self, x_TBD: Tensor, entered_TBD: Tensor) -> tuple[Tensor, Tensor]:
        query_base, key_base = self._bases(entered_TBD)
        query_low, key_low = self._low_ranks(x_TBD, entered_TBD)
        q_TBHSK = with_updates(query_base, query_low, self.sharding.own_heads(self.query_up))
        k_TBHSK = with_updates(key_base, key_low, self.sharding.own_heads(self.key_up))
        return q_TBHSK, k_TBHSK

    def _bases(self, entered_TBD: Tensor) -> tuple[Tensor, Tensor]:
        """x W_Q and x W_K: [T, B, K] for base `layer`, [T, B, H, K] of this rank's heads for base `head`."""
        query, key = self.query_base(entered_TBD), self.key_base(entered_TBD)
        if self.config.base == "head":
            heads = (self.heads_per_rank, self.config.head_dim)
            return query.unflatten(-1, heads), key.unflatten(-1, heads)
        query, key = self.sharding.gather_columns(torch.stack([query, key], dim=2)).unbind(2)
        return query, key

    def _low_ranks(self, x_TBD: Tensor, entered_TBD: Tensor) -> tuple[Tensor, Tensor]:
        """x A for queries and keys: [T, B, S, R] for down `layer`, [T, B, H, S, R] for down `head`."""
        if self.config.down == "head":
            own = self.sharding.own_heads
            return (
                low_rank_per_head(entered_TBD, own(self.query_down)),
                low_rank_per_head(entered_TBD, own(self.key_down)),
            )
        downs = [self.query_down.flatten(0, 1), self.key_down.flatten(0, 1)]
        low = self.sharding.replicated_linear(x_TBD, entered_TBD, downs).unflatten(-1, (2, 2, self.config.rank))
        query, key = low.unbind(2)
        return query, key


class DiffV2Attention(Attention):
    """DIFF V2: 2H query heads in pairs over G key/value heads; head i of a pair minus sigmoid(lambda) times the other.

    lambda = x W_lambda for each token and head. Query heads 2i and 2i+1 share a key/value head. No head norm.
    """

    def __init__(self, config: ModelConfig, sharding: Sharding, recompute_product: bool) -> None:
        super().__init__(config, sharding, recompute_product)
        H, G, K, D = config.num_heads, config.kv_heads, config.head_dim, config.hidden_size
        self.kv_heads_per_rank = G // sharding.size
        self.query = sharding.column_linear(D, 2 * H * K)
        self.key = sharding.column_linear(D, G * K)
        self.value = sharding.column_linear(D, G * K)
        self.lambda_proj = sharding.column_linear(D, H)
        self.output = sharding.row_linear(H * K, D)

    def forward(self, x_TBD: Tensor, document_starts_TB: Tensor | None) -> Tensor:
        x_TBD = self.sharding.enter(x_TBD)
        K = self.config.head_dim
        q = self.query(x_TBD).unflatten(-1, (2 * self.heads_per_rank, K))
        k = self.key(x_TBD).unflatten(-1, (self.kv_heads_per_rank, K))
        v = self.value(x_TBD).unflatten(-1, (self.kv_heads_per_rank, K))
        q, k = self.rotated(q, k, document_starts_TB)
        pairs_TBHSK = self.softmax_product(q, k, v, document_starts_TB).unflatten(2, (self.heads_per_rank, 2))
        precise = torch.promote_types(v.dtype, torch.float32)
        first, second = pairs_TBHSK.to(precise).unbind(3)
        weight_TBH1 = self.lambda_proj(x_TBD).to(precise).sigmoid()[..., None]
        return self.output((first - weight_TBH1 * second).to(v.dtype).flatten(2))


def build_attention(config: ModelConfig, layer: int, sharding: Sharding, recompute_product: bool) -> Attention:
    """The attention of block ``layer`` (counted from 0) of the kind that ``config`` asks for."""
    match config.attention:
        case "standard":
            return StandardAttention(config, sharding, recompute_product)
        case "diff":
            return DiffAttention(config, layer, sharding, recompute_product)
        case "shared_diff":
            return SharedDiffAttention(config, layer, sharding, recompute_product)
        case "diff_v2":
            return DiffV2Attention(config, sharding, recompute_product)
