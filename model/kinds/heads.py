"""What several kinds say alike about heads: how key/value heads group, and what the product of the equation costs.

In: sizes. Out: an InputError, a count. Always: pure arithmetic.
"""

from common.errors import InputError
from model.config import ModelConfig


def check_groups(config: ModelConfig, query_heads: int, what: str) -> None:
    """Raises InputError unless `model.num_kv_heads` divides the ``query_heads``, which ``what`` names."""
    groups = config.num_kv_heads
    if groups is not None and query_heads % groups:
        raise InputError(f"model.num_kv_heads: must divide {what} ({query_heads}), is {groups}")


def equation_flops(config: ModelConfig, sequence_length: int) -> int:
    """8 T H K for one token: 2H score rows of T products of width K, and T products with values of 2HK in all."""
    return 8 * sequence_length * config.num_heads * config.head_dim
