"""How many parameters a model has, by part, and how many floating-point operations a token costs.

In: a ModelConfig. Out: numbers. Always: pure arithmetic; the counts equal those of the built model.
"""

from model.config import ModelConfig


def attention_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of one block's attention by part."""
    D, H, K, R = config.hidden_size, config.num_heads, config.head_dim, config.rank
    full = D * 2 * H * K
    if config.attention == "standard":
        return {"query and key": 2 * full, "value": full, "output": full}
    if config.attention == "diff_v2":
        kv = D * config.kv_heads * K
        return {"query and key": full + kv, "value": kv, "output": D * H * K, "lambda": D * H}
    norms = {"lambda": 4 * K, "head norm": 2 * K if config.head_norm else 0}
    if config.attention == "diff":
        return {"query and key": 2 * full, "value": full, "output": full, **norms}
    owners = {"layer": 1, "head": H}
    return {
        "query and key base": 2 * D * K * owners[config.base],
        "query and key updates": 4 * R * D * owners[config.down] + 4 * R * H * K,
        "value": full,
        "output": full,
        **norms,
    }


def block_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of one block by part."""
    ffn = 3 * config.hidden_size * config.ffn_hidden_size
    return {**attention_parameters(config), "ffn": ffn, "block norms": 2 * config.hidden_size}


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
    """Forward floating-point operations of one block for one token.

    2 for each matrix element, and 8 T H K for the attention product: the equation needs 2H score rows of T products of
    width K and one product of their H differences with values of width 2K. The whole T x T square is counted although
    half of it is masked, as is usual (PaLM, appendix B), so that figures compare with published ones.
    """
    parts = block_parameters(config)
    matrices = sum(parts.values()) - parts["block norms"] - parts.get("head norm", 0)
    if config.attention in ("diff", "shared_diff"):
        matrices -= parts["lambda"]
    return 2 * matrices + 8 * sequence_length * config.num_heads * config.head_dim


def head_flops(config: ModelConfig) -> int:
    """Forward floating-point operations of the output head for one token."""
    return 2 * config.vocab_size * config.hidden_size


def training_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Forward and backward operations per token: 3 * (L * block + head); recomputation is not counted."""
    return 3 * (config.num_layers * block_flops(config, sequence_length) + head_flops(config))
