"""What several kinds say alike about heads: how they group, what the product of the equation costs, what is kept of it.

In: sizes. Out: an InputError, a count. Always: pure arithmetic.
"""

from common.errors import InputError
from model.config import ModelConfig
from model.kernels.forms.base import Heads, Maps
from model.kernels.kept import Kernels
from model.split import Split


def check_groups(config: ModelConfig, query_heads: int, what: str) -> None:
    """Raises InputError unless `model.num_kv_heads` divides the ``query_heads``, which ``what`` names."""
    groups = config.num_kv_heads
    if groups is not None and query_heads % groups:
        raise InputError(f"model.num_kv_heads: must divide {what} ({query_heads}), is {groups}")


def equation_flops(config: ModelConfig, sequence_length: int) -> int:
    """8 T H K for one token: 2H score rows of T products of width K, and T products with values of 2HK in all."""
    return 8 * sequence_length * config.num_heads * config.head_dim


def rank_heads(maps: Maps, config: ModelConfig, groups: int, split: Split) -> Heads:
    """The heads of one rank: 2H streams of queries in all, ``groups`` key/value heads."""
    heads = 2 * config.num_heads // maps.queries
    return Heads(maps, heads // split.tensor_size, groups // split.tensor_size, config.head_dim)


def product_bytes(heads: Heads, split: Split, kernels: Kernels) -> int:
    """What stays of queries, keys, values and what the product makes of them, unless that is made again."""
    if not kernels.attention.is_recomputed(split.activation_checkpointing, split.gathers):
        return made_bytes(heads, split, kernels)
    keys_and_values = 2 * heads.maps.keys * heads.groups
    return split.bytes_of((heads.maps.queries * heads.heads + keys_and_values) * heads.head_dim)


def made_bytes(heads: Heads, split: Split, kernels: Kernels) -> int:
    """What the product's own backward pass needs of them.

    Ranks that share samples bring results together in a tensor of their own.
    """
    kept = kernels.attention.kept(heads)
    result = heads.maps.keys * heads.heads * heads.head_dim if kept.result and split.context_size > 1 else 0
    return split.bytes_of(kept.elements + result) + 4 * kept.numbers * split.tokens
