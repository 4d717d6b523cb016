"""How many parameters a model has, by part, and how many floating-point operations a token costs.

In: a ModelConfig. Out: numbers. Always: pure arithmetic; the counts equal those of the built model.
"""

from model.config import ModelConfig
from model.kinds.registry import kind_of


def attention_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of one block's attention by part."""
    kind = kind_of(config)
    return {**kind.matrices(config), **kind.vectors(config)}


def block_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of one block by part."""
    return {
        **attention_parameters(config),
        "ffn": _ffn_elements(config),
        "block norms": 2 * config.hidden_size,
    }


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of the whole model by part; their sum is the model's size."""
    vocabulary = config.vocab_size * config.hidden_size
    blocks = {part: config.num_layers * count for part, count in block_parameters(config).items()}
    return {
        "embedding": vocabulary,
        **blocks,
        "final norm": config.hidden_size,
        "head": 0 if config.tie_embeddings else vocabulary,
    }


def block_flops(config: ModelConfig, sequence_length: int) -> int:
    """Forward floating-point operations of one block for one token, by the equations.

    2 for each matrix element, and the attention product, whose T x T square counts whole (``Kind.product_flops``).
    """
    product, _ = kind_of(config).product_flops(config, sequence_length)
    return 2 * _block_matrices(config) + product


def executed_flops(config: ModelConfig, sequence_length: int) -> tuple[float, float]:
    """As ``block_flops``, but as kernels run them: (all, those of the attention product)."""
    _, product = kind_of(config).product_flops(config, sequence_length)
    return 2 * _block_matrices(config) + product, product


def head_flops(config: ModelConfig) -> int:
    """Forward floating-point operations of the output head for one token."""
    return 2 * config.vocab_size * config.hidden_size


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Forward and backward operations per token: 3 * (L * block + head); recomputation is not counted."""
    return 3 * (config.num_layers * block_flops(config, sequence_length) + head_flops(config))


def _block_matrices(config: ModelConfig) -> int:
    """Elements of one block's matrices."""
    return sum(kind_of(config).matrices(config).values()) + _ffn_elements(config)


def _ffn_elements(config: ModelConfig) -> int:
    return 3 * config.hidden_size * config.ffn_hidden_size
