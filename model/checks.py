"""Whether a model can be, and can be split over a tensor-parallel group: said before anything starts.

In: a ModelConfig, the group's size and the sequence length. Out: nothing, or an InputError that names the setting and
the nearest values that would work. Always: pure arithmetic.
"""

from common.errors import InputError
from model.config import ModelConfig
from model.kinds.registry import kind_of


def check_model(config: ModelConfig) -> None:
    """Raises InputError unless there is the kind of attention that ``config`` names, and it can have these sizes."""
    kind_of(config).check(config)


def check_split(config: ModelConfig, *, tensor_size: int, sequence_parallel: bool, sequence_length: int) -> None:
    """Raises InputError unless ``config`` splits evenly over ``tensor_size`` ranks.

    Divided among the ranks are what the kind of attention names (heads, key/value heads, ...), the feed-forward width,
    the vocabulary, and under sequence parallelism the sequence.
    """
    divided = {
        **kind_of(config).divided(config),
        "model.ffn_hidden_size": config.ffn_hidden_size,
        "model.vocab_size": config.vocab_size,
    }
    if sequence_parallel:
        if tensor_size == 1:
            raise InputError(
                "parallel.sequence: splits the sequence over tensor-parallel ranks; with parallel.tensor 1 it must be "
                "false"
            )
        divided["data.sequence_length"] = sequence_length
    for name, value in divided.items():
        if value % tensor_size:
            raise InputError(
                f"{name}: {value} cannot be split over parallel.tensor {tensor_size}; nearest: {name} "
                f"{nearest_multiples(value, tensor_size)}, or parallel.tensor {nearest_split(divided, tensor_size)}"
            )


def nearest_split(divided: dict[str, int], tensor_size: int) -> str:
    """The tensor-parallel sizes below and above ``tensor_size`` that divide every number in ``divided``, in words."""
    valid = [size for size in range(1, min(divided.values()) + 1) if not any(n % size for n in divided.values())]
    below = max(size for size in valid if size < tensor_size)
    above = min((size for size in valid if size > tensor_size), default=None)
    return str(below) if above is None else f"{below} or {above}"


def nearest_multiples(value: int, unit: int) -> str:
    """The multiples of ``unit`` around ``value``, in words."""
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)
