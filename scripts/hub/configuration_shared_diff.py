"""Configuration of a differential Transformer in the Hugging Face format.

In: the values of config.json. Out: a SharedDiffConfig. Always: imports transformers only; sizes have the names that
transformers' own tools look for (num_attention_heads, num_key_value_heads, head_dim, ...).
"""

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

JOINED_STREAMS = {"diff": 2, "shared_diff": 2, "diff_v2": 1}
"""Kind of attention -> how many streams' keys lie side by side in one key of the cache."""
BY_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
BY_ROWS = ("self_attn.o_proj", "mlp.down_proj")
"""Linear modules of a layer that tensor parallelism splits: heads, and the feed-forward network's inner width"""


class SharedDiffConfig(PretrainedConfig):
    """A decoder-only model with differential attention.

    ``attention`` is ``diff`` (DIFF V1, arXiv 2410.05258), ``shared_diff`` (V1 with query and key projections made of
    shared bases and low-rank updates) or ``diff_v2`` (paired heads, lambda per token). ``factored`` says whether
    ``shared_diff`` weights are stored as base, down and up, or merged into plain matrices; the logits are the same.

    ``num_attention_heads`` counts query heads, two for every differential head, and ``num_key_value_heads`` the heads
    of the cache, whose keys and values are ``head_dim`` wide: in ``diff`` and ``shared_diff`` two times ``stream_dim``,
    the width of one stream's query and key; in ``diff_v2`` as wide. A folder without ``stream_dim`` is one of before,
    when ``head_dim`` had its meaning and ``num_key_value_heads`` counted keys of that width; the model is the same.
    ``lambda_inits`` has one constant per layer. ``rope_base`` is the base of the rotary positions; ``rope_parameters``,
    where there are any, say in transformers' words how they are scaled (``linear`` or ``yarn``).

    ``lora_target_modules`` names, for adapters, the linear modules of a layer, those of queries and keys among them.
    Tensor parallelism has a plan for all weights but factored ones, whose heads share what would be split.
    """

    model_type = "shared_diff"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        attention: str = "shared_diff",
        factored: bool = False,
        base: str = "layer",
        down: str = "layer",
        rank: int = 16,
        head_norm: bool = True,
        lambda_inits: Sequence[float] = (0.2, 0.8 - 0.6 * 0.7408182206817179),
        vocab_size: int = 8192,
        hidden_size: int = 128,
        intermediate_size: int = 344,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_key_value_heads: int = 4,
        head_dim: int = 32,
        stream_dim: int | None = None,
        hidden_act: str = "silu",
        max_position_embeddings: int = 4096,
        rms_norm_eps: float = 1e-5,
        rope_base: float = 10000.0,
        rope_parameters: dict[str, Any] | None = None,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        lora_target_modules: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if len(lambda_inits) != num_hidden_layers:
            raise ValueError(
                f"lambda_inits: must have num_hidden_layers = {num_hidden_layers} entries, has {len(lambda_inits)}"
            )
        if stream_dim is None:
            joined = JOINED_STREAMS.get(attention, 1)
            stream_dim, head_dim, num_key_value_heads = head_dim, joined * head_dim, num_key_value_heads // joined
        self.attention = attention
        self.factored = factored
        self.base = base
        self.down = down
        self.rank = rank
        self.head_norm = head_norm
        self.lambda_inits = list(lambda_inits)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.stream_dim = stream_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.rope_base = rope_base
        if rope_parameters is not None:
            self.rope_parameters = rope_parameters
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.lora_target_modules = list(lora_target_modules or ())
        if attention in JOINED_STREAMS and not (attention == "shared_diff" and factored):
            columns = (*BY_COLUMNS, "self_attn.lambda_proj") if attention == "diff_v2" else BY_COLUMNS
            styles = dict.fromkeys(columns, "colwise") | dict.fromkeys(BY_ROWS, "rowwise")
            self.base_model_tp_plan = {f"layers.*.{name}": style for name, style in styles.items()}
        super().__init__(
            tie_word_embeddings=tie_word_embeddings,
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            **kwargs,
        )
