"""A Hugging Face folder as a model of ours: its configuration, and its tensors under logical names.

In: a folder with config.json and safetensors: an export, or a plain Llama (or Mistral) of anyone.
Out: a ModelConfig and a reader of parameters. Always: what our layers cannot compute is refused by name; code that
lies in the folder is never run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import InputError, named
from common.files import read_json
from model.config import AttentionKind, ModelConfig
from scripts.hub.layout import hub_name
from scripts.hub.loading import OWN_TYPE, check_no_adapter, code_files, say_unused
from scripts.hub.weights import WeightFiles, check_finite, open_weights


@dataclass(frozen=True)
class ForeignModel:
    """An opened folder."""

    config: ModelConfig
    max_length: int
    files: WeightFiles
    repeats: int
    """query heads that share one key/value head in the folder; ours have one each"""

    def read(self, name: str) -> Tensor:
        """The parameter with this logical name, in fp32."""
        value = self.files.read(hub_name(name)).float()
        with named(str(self.files.folder)):
            check_finite(value, hub_name(name))
        if self.repeats > 1 and name.endswith(("attention.key.weight", "attention.value.weight")):
            heads = value.unflatten(0, (-1, self.config.head_dim))
            value = heads.repeat_interleave(self.repeats, dim=0).flatten(0, 1)
        return value


def open_foreign(folder: Path) -> ForeignModel:
    """Opens ``folder``.

    Raises:
        InputError: no such folder, damaged files, or a model that ours cannot equal.
    """
    values = read_json(folder / "config.json", "model configuration")
    if not isinstance(values, dict):
        raise InputError(f"{folder / 'config.json'}: damaged: holds no settings, but {values!r:.60}")
    kind = values.get("model_type")
    check_no_adapter(folder)
    if kind != OWN_TYPE and code_files(folder, values):
        print(say_unused(folder, values))
    files = open_weights(folder)
    try:
        if kind == OWN_TYPE:
            return ForeignModel(_own_config(folder, values), values["max_position_embeddings"], files, 1)
        if kind in ("llama", "mistral"):
            _refuse_what_differs(folder, values)
            repeats = values["num_attention_heads"] // _kv_heads(values)
            return ForeignModel(_llama_config(folder, values), values["max_position_embeddings"], files, repeats)
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'}: lacks {error}") from None
    raise InputError(f"{folder / 'config.json'}: model_type is {kind}; shared_diff, llama and mistral can be imported")


def _own_config(folder: Path, values: Mapping[str, Any]) -> ModelConfig:
    merged = values["attention"] == "shared_diff" and not values["factored"]
    attention: AttentionKind = "diff" if merged else values["attention"]  # merged matrices are those of a DIFF model
    return ModelConfig(
        attention=attention,
        rank=values["rank"],
        base=values["base"],
        down=values["down"],
        head_norm=values["head_norm"],
        num_kv_heads=_group_heads(values) if attention == "diff_v2" else None,
        lambda_init=_lambda_init(folder, values["lambda_inits"]),
        rope_theta=values["rope_base"],
        **_common(values),
    )


def _llama_config(folder: Path, values: Mapping[str, Any]) -> ModelConfig:
    rope = values.get("rope_parameters") or {}
    theta = rope.get("rope_theta") or values.get("rope_theta") or 10000.0
    return ModelConfig(attention="standard", rope_theta=float(theta), **_common(values))


def _common(values: Mapping[str, Any]) -> dict[str, Any]:
    heads = values["num_attention_heads"]
    return {
        "num_layers": values["num_hidden_layers"],
        "hidden_size": values["hidden_size"],
        "ffn_hidden_size": values["intermediate_size"],
        "num_heads": heads // 2,
        "head_dim": values.get("head_dim") or values["hidden_size"] // heads,
        "vocab_size": values["vocab_size"],
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "norm_eps": values.get("rms_norm_eps", 1e-6),
    }


def _group_heads(values: Mapping[str, Any]) -> int | None:
    """Key/value heads of diff_v2; None: as many as differential heads, the default."""
    heads = int(values["num_key_value_heads"])
    return None if heads == values["num_attention_heads"] // 2 else heads


def _kv_heads(values: Mapping[str, Any]) -> int:
    return int(values.get("num_key_value_heads") or values["num_attention_heads"])


def _refuse_what_differs(folder: Path, values: Mapping[str, Any]) -> None:
    """Llamas with parts that `standard` does not have."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    problems = {
        "biases": values.get("attention_bias") or values.get("mlp_bias"),
        f"the activation {values.get('hidden_act')}": values.get("hidden_act", "silu") != "silu",
        "scaled rotary positions": rope.get("rope_type", rope.get("type", "default")) != "default",
        "a sliding window": values.get("sliding_window") is not None,
        "an odd number of heads": values["num_attention_heads"] % 2,
    }
    found = next((problem for problem, present in problems.items() if present), None)
    if found:
        raise InputError(f"{folder / 'config.json'}: the model has {found}, which `standard` cannot compute")


def _lambda_init(folder: Path, inits: list[float]) -> Any:
    default = ModelConfig()
    if all(math.isclose(value, default.lambda_init_of(layer)) for layer, value in enumerate(inits)):
        return "default"
    if len(set(inits)) == 1:
        return inits[0]
    raise InputError(f"{folder / 'config.json'}: lambda_inits is neither the default nor one number for all layers")
