"""`shared_diff`: Shared DIFF, queries and keys from shared bases and low-rank updates.

In: x_TBD. Out: attention [T, B, D], and the declarations of this kind. Always: what model/kinds/differential.py says;
the projection of head h and stream s is W + A_s B_{h,s} (model/shared_projection.py), for the keys of key/value head h.

The weights become those of other models exactly:

    shared_diff -> diff          W = base + A B for every head and stream
    base layer  -> base head     the one base stands in every head's slice
    down layer  -> down head     the one A stands in every head's place
"""

import itertools
import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from model.config import ModelConfig, Owner
from model.distributions import Distribution, Normal, reading
from model.kernels.kept import Kernels
from model.kinds.base import Attention, Reading, Recipe
from model.kinds.diff import Diff
from model.kinds.differential import Differential, DifferentialAttention
from model.recorder import look_at_weight
from model.shared_projection import merged_weight, update_norms, with_updates
from model.split import LayerCommunication, Split, gathering
from model.surroundings import Surroundings


class SharedDiffAttention(DifferentialAttention):
    """The layer.

    The bases are sharded once: base `layer` over K, its small output gathered for q and k together; base `head` by
    head. The factors A and B are replicated, and a rank uses the B of its own heads. A of down `layer` acts once on
    each token (under sequence parallelism on this rank's tokens, then its R-wide output is gathered); A of down
    `head` belongs to one head and so to one rank, which needs it for the whole sequence.
    """

    def __init__(self, config: ModelConfig, groups: int, layer: int, around: Surroundings) -> None:
        super().__init__(config, groups, layer, around)
        sharding = around.sharding
        H, G, K, R, D = config.num_heads, groups, config.head_dim, config.rank, config.hidden_size
        base_of_layer, down_of_layer = config.base == "layer", config.down == "layer"
        self.query_base = sharding.column_linear(D, K if base_of_layer else H * K)
        self.key_base = sharding.column_linear(D, K if base_of_layer else G * K)
        self.query_down = sharding.replicated(
            *(() if down_of_layer else (H,)), 2, R, D, touched_by="heads", matrix=True
        )
        self.key_down = sharding.replicated(*(() if down_of_layer else (G,)), 2, R, D, touched_by="heads", matrix=True)
        self.query_up = sharding.replicated(H, 2, K, R, touched_by="heads", matrix=True)
        self.key_up = sharding.replicated(G, 2, K, R, touched_by="heads", matrix=True)
        look_at_weight(self.query_base, around.recorder, self._record_query_update)
        look_at_weight(self.key_base, around.recorder, self._record_key_update)

    def projections(self, x_TBD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = self.sharding.own_heads
        layers, downs = [self.query_base, self.key_base, self.value], [self.query_down, self.key_down]
        if self.config.down == "layer":
            weights = [down_SRD.flatten(0, 1) for down_SRD in downs]
            query, key, value, *low = self.sharding.columns(x_TBD, layers, shared=weights)
        else:
            weights = [own(down_HSRD).flatten(0, 2) for down_HSRD in downs]
            query, key, value, *low = self.sharding.columns(x_TBD, layers, own=weights)
        query_base, key_base = self._bases(query, key)
        query_low, key_low = (self._by_stream(x) for x in low)
        q_TBHSK = with_updates(query_base, query_low, own(self.query_up))
        k_TBGSK = with_updates(key_base, key_low, own(self.key_up))
        return q_TBHSK, k_TBGSK, value

    def _bases(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """From this rank's columns of x W_Q and x W_K what its heads need.

        [T, B, K] for base `layer`, [T, B, H or G, K] of this rank's heads for base `head`.
        """
        if self.config.base == "head":
            heads_of_K = (-1, self.config.head_dim)
            return query.unflatten(-1, heads_of_K), key.unflatten(-1, heads_of_K)
        query, key = self.sharding.gather_columns(torch.stack([query, key], dim=2)).unbind(2)
        return query, key

    def _by_stream(self, low: Tensor) -> Tensor:
        """x A as [T, B, S, R] for down `layer`, [T, B, H or G, S, R] of this rank's heads for down `head`."""
        sizes = (2, self.config.rank) if self.config.down == "layer" else (-1, 2, self.config.rank)
        return low.unflatten(-1, sizes).contiguous()  # a view would keep the other projections, too

    def _record_query_update(self, base: Tensor) -> None:
        self._record_update("query_update", base, self.query_down, self.query_up)

    def _record_key_update(self, base: Tensor) -> None:
        self._record_update("key_update", base, self.key_down, self.key_up)

    def _record_update(self, name: str, base: Tensor, down: Tensor, up_HSKR: Tensor) -> None:
        """||A B|| / ||W|| in the root mean square over heads and streams; ``base`` is this rank's part of W."""
        own = self.sharding.own_heads
        norms_HS = update_norms(down if self.config.down == "layer" else own(down), own(up_HSKR))
        for_each_base = 2 * (up_HSKR.shape[0] if self.config.base == "layer" else 1)
        self.recorder.record(name, norms_HS / math.sqrt(for_each_base), "rms", over=base)


class SharedDiff(Differential):
    """The declarations."""

    name = "shared_diff"
    settings = frozenset({"base", "down", "rank"})
    readings = tuple(
        Reading(f"base {base}, down {down}", f"{base}/{down}", {"base": base, "down": down})
        for base, down in itertools.product(get_args(Owner), repeat=2)
    )
    converts_into = frozenset({Diff.name})
    widens = {"base": ("layer", "head"), "down": ("layer", "head")}

    def build(self, config: ModelConfig, layer: int, around: Surroundings) -> Attention:
        return SharedDiffAttention(config, self.key_value_heads(config), layer, around)

    def initial(self, config: ModelConfig) -> dict[str, Distribution]:
        """Base and update bring half of a projection's variance s² each: A B has variance R s²/(2R).

        So the two streams of a head start with correlation 1/2: neither equal nor independent.
        """
        base, down, up = (
            Normal(reading(config).std / math.sqrt(2)),
            reading(config),
            Normal(1 / math.sqrt(2 * config.rank)),
        )
        return {
            "query_base.weight": base,
            "key_base.weight": base,
            "query_down": down,
            "key_down": down,
            "query_up": up,
            "key_up": up,
            **super().initial(config),
        }

    def matrices(self, config: ModelConfig) -> dict[str, int]:
        D, K, heads = config.hidden_size, config.head_dim, self._projected_heads(config)
        return {
            "query and key base": D * K * (2 if config.base == "layer" else heads),
            "query and key updates": self._factor_elements(config),
            **super().matrices(config),
        }

    def divided(self, config: ModelConfig) -> dict[str, int]:
        """The one base of a layer is split over K."""
        head_dim = {"model.head_dim": config.head_dim} if config.base == "layer" else {}
        return {**super().divided(config), **head_dim}

    def exchanges(self, config: ModelConfig, split: Split) -> list[LayerCommunication]:
        steps = []
        if config.base == "layer":
            steps.append(gathering(split, 2 * config.head_dim, "shared bases"))
        if config.down == "layer" and split.sequence_parallel:
            steps.append(gathering(split, 4 * config.rank, "low-rank projections"))
        return steps

    def partial_gradients(self, config: ModelConfig) -> dict[str, int]:
        """The factors of every block: what replicating them costs."""
        return {"factors": self._factor_elements(config), **super().partial_gradients(config)}

    def kept_bytes(self, config: ModelConfig, split: Split, kernels: Kernels) -> int:
        """Differential attention's; the low-rank projections; with shared A the copy of B that their product makes."""
        R, K = config.rank, config.head_dim
        heads = [count // split.tensor_size for count in (config.num_heads, self.key_value_heads(config))]
        kept = super().kept_bytes(config, split, kernels)
        if config.down == "head":
            return kept + split.bytes_of(2 * R * sum(heads))
        ups = sum(2 * R * K * count for count in heads if count > 1)  # of one head, B needs no other order
        return kept + split.bytes_of(4 * R) + ups * split.element_bytes

    def recipe(self, source: ModelConfig, target: ModelConfig, name: str) -> Recipe | None:
        stem, _, part = name.removesuffix(".weight").partition("_")
        if target.attention == Diff.name:
            return _merged(stem) if name in ("query.weight", "key.weight") else None
        heads = source.num_heads if stem == "query" else self.key_value_heads(source)
        if part == "base" and source.base != target.base:
            return Recipe((name,), lambda parts: parts[0].repeat(heads, 1))
        if part == "down" and source.down != target.down:
            return Recipe((name,), lambda parts: parts[0].expand(heads, -1, -1, -1))
        return None

    def _projected_heads(self, config: ModelConfig) -> int:
        """Query heads and key heads together."""
        return config.num_heads + self.key_value_heads(config)

    def _factor_elements(self, config: ModelConfig) -> int:
        """Of A and B: each has two streams."""
        heads = self._projected_heads(config)
        downs = 2 if config.down == "layer" else heads
        return 2 * config.rank * (config.hidden_size * downs + heads * config.head_dim)


def _merged(stem: str) -> Recipe:
    return Recipe((f"{stem}_base.weight", f"{stem}_down", f"{stem}_up"), _merge)


def _merge(parts: Sequence[Tensor]) -> Tensor:
    base, down, up = parts
    return merged_weight(base, down, up)
