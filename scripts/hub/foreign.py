"""A Hugging Face folder as a model of ours: its configuration, and its tensors under logical names.

In: a folder with config.json and safetensors: an export, or a plain Llama (or Mistral) of anyone.
Out: a ModelConfig and a reader of parameters. Always: what our layers cannot compute is refused by name; the tensors
are those of the configuration, no less and no more, before one of them is read; code that lies in the folder is never
run.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from common.errors import InputError, named
from common.ranges import LONGEST_SEQUENCE
from model.config import ModelConfig, Owner
from model.kinds.registry import kind_names, kind_of
from scripts.hub.hub_config import HubConfig, read_hub_config
from scripts.hub.layout import cache_width, hub_name, hub_shape, parameter_shapes, stored_config
from scripts.hub.loading import OWN_TYPE, check_files, check_no_adapter, code_files, say_unused
from scripts.hub.rope import LARGEST_BASE, SECTIONS, scaling_of, theta_of
from scripts.hub.weights import WeightFiles, check_finite, open_weights

MOST_LAYERS, MOST_HEADS, LARGEST_SIZE, MOST_WORDS = 4096, 2**16, 2**22, 2**26
"""as in ModelConfig"""


@dataclass(frozen=True)
class ForeignModel:
    """An opened folder."""

    config: ModelConfig
    max_length: int
    files: WeightFiles

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Logical name and shape of every parameter."""
        return parameter_shapes(self.config)

    def read(self, name: str) -> Tensor:
        """The parameter with this logical name, in fp32."""
        value = self.files.read(hub_name(name)).float().reshape(self.shapes[name])
        with named(str(self.files.folder)):
            check_finite(value, hub_name(name))
        return value


def open_foreign(folder: Path) -> ForeignModel:
    """Opens ``folder``.

    Raises:
        InputError: no such folder, damaged files, or a model that ours cannot equal.
    """
    check_files(folder)
    config = read_hub_config(folder)
    kind = config.values.get("model_type")
    check_no_adapter(folder)
    if kind != OWN_TYPE and code_files(folder, config.values):
        print(say_unused(folder, config.values))
    if kind not in (OWN_TYPE, "llama", "mistral"):
        raise InputError(f"{config.path}: model_type is {kind!s:.60}; shared_diff, llama and mistral can be imported")
    files = open_weights(folder)
    max_length = config.integer("max_position_embeddings", 2, LONGEST_SEQUENCE)
    with named(str(config.path)):
        model = _own_config(config) if kind == OWN_TYPE else _llama_config(config)
    foreign = ForeignModel(model, max_length, files)
    _check_tensors(foreign)
    return foreign


def _own_config(config: HubConfig) -> ModelConfig:
    config = _with_joined_streams(config)
    trained = ModelConfig(
        attention=config.word("attention", kind_names()),
        rank=config.integer("rank", 1, MOST_HEADS),
        base=config.word("base", get_args(Owner)),
        down=config.word("down", get_args(Owner)),
        head_norm=config.flag("head_norm"),
        lambda_init=_lambda_init(config),
        rope_theta=config.number("rope_base", 0, LARGEST_BASE),
        **_common(config) | {"head_dim": config.integer("stream_dim", 2, MOST_HEADS)},
    )
    return stored_config(_grouped(trained, config), config.flag("factored"))


def _with_joined_streams(config: HubConfig) -> HubConfig:
    """``config`` with the heads as a cache holds them; exports of before counted the keys of each stream by themselves.

    Raises:
        InputError: numbers that do not go together.
    """
    joined = cache_width(config.word("attention", kind_names()))
    if config.values.get("stream_dim") is None:
        heads = config.integer("num_attention_heads", 2, MOST_HEADS)
        keys = config.integer("num_key_value_heads", 1, heads, default=heads)
        if keys % joined:
            raise config.wrong("num_key_value_heads", f"must be a multiple of {joined}, is {keys}")
        width = config.integer("head_dim", 2, MOST_HEADS)
        own = {"stream_dim": width, "head_dim": joined * width, "num_key_value_heads": keys // joined}
        return dataclasses.replace(config, values={**config.values, **own})
    width, stream = (config.integer(key, 2, joined * MOST_HEADS) for key in ("head_dim", "stream_dim"))
    if width != joined * stream:
        raise config.wrong("head_dim", f"must be {joined} times stream_dim ({stream}), is {width}")
    return config


def _llama_config(config: HubConfig) -> ModelConfig:
    _refuse_what_differs(config)
    return _grouped(ModelConfig(attention="standard", rope_theta=theta_of(config), **_common(config)), config)


def _common(config: HubConfig) -> dict[str, Any]:
    heads = config.integer("num_attention_heads", 2, MOST_HEADS)
    if heads % 2:
        raise config.wrong("num_attention_heads", f"is {heads}; an odd number of heads cannot be computed here")
    hidden_size = config.integer("hidden_size", 1, LARGEST_SIZE)
    return {
        "num_layers": config.integer("num_hidden_layers", 1, MOST_LAYERS),
        "hidden_size": hidden_size,
        "ffn_hidden_size": config.integer("intermediate_size", 1, LARGEST_SIZE),
        "num_heads": heads // 2,
        "head_dim": config.integer("head_dim", 2, 2 * MOST_HEADS, default=hidden_size // heads),
        "vocab_size": config.integer("vocab_size", 1, MOST_WORDS),
        "tie_embeddings": config.flag("tie_word_embeddings", default=False),
        "norm_eps": config.number("rms_norm_eps", 0, 1, default=1e-6),
        "rope_scaling": scaling_of(config),
    }


def _grouped(model: ModelConfig, config: HubConfig) -> ModelConfig:
    """``model`` with the folder's key/value heads."""
    heads = config.integer("num_attention_heads", 2, MOST_HEADS)
    stored = config.integer("num_key_value_heads", 1, heads, default=heads)
    whole = kind_of(model).key_value_heads(model)
    if whole % stored:
        what = "num_attention_heads" if whole == heads else "half of num_attention_heads"
        raise config.wrong("num_key_value_heads", f"must divide {what} ({whole}), is {stored}")
    return model if stored == whole else dataclasses.replace(model, num_kv_heads=stored)


def _refuse_what_differs(config: HubConfig) -> None:
    """Llamas with parts that `standard` does not have."""
    values = config.values
    ropes = [config.section(name) for name in SECTIONS]
    problems = {
        "biases": values.get("attention_bias") or values.get("mlp_bias"),
        f"the activation {values.get('hidden_act')!s:.60}": values.get("hidden_act", "silu") != "silu",
        "partly rotated heads": any(part.get("partial_rotary_factor", 1) != 1 for part in (values, *ropes)),
        "a sliding window": values.get("sliding_window") is not None,
        "quantized weights": values.get("quantization_config") is not None,
    }
    found = next((problem for problem, present in problems.items() if present), None)
    if found:
        raise InputError(f"the model has {found}, which `standard` cannot compute")


def _lambda_init(config: HubConfig) -> Any:
    inits = config.numbers("lambda_inits", config.integer("num_hidden_layers", 1, MOST_LAYERS), 0, 1)
    default = ModelConfig()
    if all(math.isclose(value, default.lambda_init_of(layer)) for layer, value in enumerate(inits)):
        return "default"
    if len(set(inits)) == 1:
        return inits[0]
    raise config.wrong("lambda_inits", "is neither the default nor one number for all layers")


def _check_tensors(foreign: ForeignModel) -> None:
    """Refuses a folder whose tensors are not those of its configuration.

    Raises:
        InputError: names the first that is missing, left over, or of another shape or type.
    """
    config, files = foreign.config, foreign.files
    layers = {int(number) for name in files.file_of for number in re.findall(r"^model\.layers\.(\d{1,6})\.", name)}
    if layers != set(range(config.num_layers)):  # before as many layers are built as the configuration says
        raise InputError(f"{files.folder}: holds {len(layers)} layers, config.json names {config.num_layers}")
    expected = {hub_name(name): shape for name, shape in foreign.shapes.items()}
    for name, shape in expected.items():
        files.check(name, hub_shape(shape, name))
    _check_left_over(foreign, sorted(files.file_of.keys() - expected.keys()))


def _check_left_over(foreign: ForeignModel, names: Iterable[str]) -> None:
    for name in names:
        if name.endswith("rotary_emb.inv_freq"):  # old Llamas keep what is computed from rope_theta
            continue
        if name == "lm_head.weight" and foreign.config.tie_embeddings:
            head, embedding = foreign.files.read(name), foreign.files.read("model.embed_tokens.weight")
            if torch.equal(head, embedding):
                continue
            raise InputError(f"{foreign.files.folder}: {name} differs from the embedding that config.json ties it to")
        raise InputError(
            f"{foreign.files.folder}: its tensors differ from those of config.json: {name:.100} is one too many"
        )
