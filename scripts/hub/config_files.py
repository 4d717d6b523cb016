"""config.json, generation_config.json and the modelling code of an exported folder.

In: a RunConfig and how the weights are stored. Out: what transformers reads first. Always: `standard` needs no code of
ours; the other kinds bring theirs along.
"""

import shutil
from pathlib import Path
from typing import Any

from common.files import write_json
from model.config import ModelConfig
from model.kinds.registry import kind_of
from scripts.hub.layout import cache_width
from scripts.hub.rope import is_scaled, rope_base, rope_parameters

CODE_FILES = ("configuration_shared_diff.py", "modeling_shared_diff.py")
DTYPES = ("float32", "bfloat16", "float16")


ADAPTED = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_config(
    folder: Path, config: ModelConfig, max_length: int, dtype: str, factored: bool, eod_id: int, pad_id: int
) -> None:
    """Writes the configuration files, and the code where the kind needs it."""
    values = _stock_values(config) if config.attention == "standard" else _own_values(config, factored)
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": 2 * config.num_heads,
        "num_key_value_heads": kind_of(config).key_value_heads(config),
        "head_dim": cache_width(config.attention) * config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_length,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": eod_id,
        "pad_token_id": pad_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # the name before transformers 5
    }
    write_json(folder / "config.json", common | values)
    write_json(folder / "generation_config.json", {"eos_token_id": eod_id, "pad_token_id": pad_id})
    if config.attention != "standard":
        for name in CODE_FILES:
            shutil.copyfile(Path(__file__).parent / name, folder / name)


def lora_targets(attention: str, factored: bool) -> list[str]:
    """The linear modules of a layer, by the ends of their names, as PEFT's `target_modules` takes them."""
    parts = [".base", ".down"] if attention == "shared_diff" and factored else [""]
    own = [f"{stem}_proj{part}" for stem in ("q", "k") for part in parts]
    return [*own, *ADAPTED, *(["lambda_proj"] if attention == "diff_v2" else [])]


def _stock_values(config: ModelConfig) -> dict[str, Any]:
    """A plain Llama; or, where the hidden size is no multiple of the heads, which Llama refuses, its twin Mistral."""
    llama = config.hidden_size % (2 * config.num_heads) == 0
    values = {
        "model_type": "llama" if llama else "mistral",
        "architectures": ["LlamaForCausalLM" if llama else "MistralForCausalLM"],
        "rope_theta": rope_base(config),
        "rope_parameters": rope_parameters(config),
    }
    if is_scaled(config):  # the name before transformers 5
        values["rope_scaling"] = {key: value for key, value in rope_parameters(config).items() if key != "rope_theta"}
    return values if llama else values | {"sliding_window": None}


def _own_values(config: ModelConfig, factored: bool) -> dict[str, Any]:
    shared = config.attention == "shared_diff"
    return {
        "model_type": "shared_diff",
        "architectures": ["SharedDiffForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_shared_diff.SharedDiffConfig",
            "AutoModel": "modeling_shared_diff.SharedDiffModel",
            "AutoModelForCausalLM": "modeling_shared_diff.SharedDiffForCausalLM",
        },
        "attention": config.attention,
        "factored": shared and factored,
        "base": config.base,
        "down": config.down,
        "rank": config.rank,
        "head_norm": config.head_norm,
        "lambda_inits": [config.lambda_init_of(layer) for layer in range(config.num_layers)],
        "stream_dim": config.head_dim,
        "rope_base": rope_base(config),
        "lora_target_modules": lora_targets(config.attention, factored),
        **({"rope_parameters": rope_parameters(config)} if is_scaled(config) else {}),
    }
