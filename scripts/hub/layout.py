"""Which tensor of an exported folder is made of which parameters of a checkpoint, and back.

In: a ModelConfig. Out: the folder's tensors in the order in which they are written, each with its sources.
Always: one tensor at a time can be made, from at most three parameters.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError
from model.config import ModelConfig
from model.kinds.base import Recipe
from model.kinds.registry import kind_of, recipe_of
from model.layers import build_layers
from model.parallel import Unsharded, info_of

OUTER = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
BLOCK = {
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.gate.weight": "mlp.gate_proj.weight",
    "ffn.up.weight": "mlp.up_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_base.weight": "self_attn.q_proj.base.weight",
    "attention.query_down": "self_attn.q_proj.down.weight",
    "attention.query_up": "self_attn.q_proj.up",
    "attention.key_base.weight": "self_attn.k_proj.base.weight",
    "attention.key_down": "self_attn.k_proj.down.weight",
    "attention.key_up": "self_attn.k_proj.up",
    "attention.lambda_q1": "self_attn.lambda_q1",
    "attention.lambda_k1": "self_attn.lambda_k1",
    "attention.lambda_q2": "self_attn.lambda_q2",
    "attention.lambda_k2": "self_attn.lambda_k2",
    "attention.lambda_proj.weight": "self_attn.lambda_proj.weight",
    "attention.head_norm.weight": "self_attn.head_norm.weight",
}
"""Logical name inside a block -> name inside a decoder layer of the folder."""
BARE = re.compile(r"self_attn\.[qk]_proj\.(base|down)$")
"""tensors that exports before format 5 held as bare parameters, where today's have linear modules"""

CACHE_WIDTH = {"standard": 1, "diff": 2, "shared_diff": 2, "diff_v2": 1}
"""Kinds that transformers can run -> width of a key, and of a value, in a cache; in head dims K."""


@dataclass(frozen=True)
class HubTensor:
    """One tensor of the folder, and the parameters, by logical name, that it is made of."""

    name: str
    shape: tuple[int, ...]
    recipe: Recipe

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def cache_width(attention: str) -> int:
    """The width of what a cache holds for a key/value head of this kind, in head dims K.

    Raises:
        InputError: a kind that transformers cannot run.
    """
    if attention not in CACHE_WIDTH:
        raise InputError(f"model.attention: {attention} has no form for transformers; {', '.join(CACHE_WIDTH)} have")
    return CACHE_WIDTH[attention]


def hub_name(logical: str) -> str:
    """``blocks.3.ffn.up.weight`` -> ``model.layers.3.mlp.up_proj.weight``."""
    head, _, rest = logical.partition(".")
    if head != "blocks":
        return f"{OUTER[head]}.{rest}"
    block, _, name = rest.partition(".")
    return f"model.layers.{block}.{BLOCK[name]}"


def renewed(name: str) -> str:
    """Today's name of a tensor of any export."""
    return f"{name}.weight" if BARE.search(name) else name


def hub_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The shape of the folder's tensor ``name`` made of a parameter of ``shape``: linear modules have matrices."""
    return (math.prod(shape[:-1]), shape[-1]) if name.endswith(".weight") and len(shape) > 2 else shape


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Logical name and shape of every parameter of the model, in the order of its layers."""
    layers = build_layers(config, Unsharded(), seed=0, device="meta")
    own = (layer for layer in layers if layer.tied_to is None)
    infos = [info_of(parameter) for layer in own for parameter in layer.build().parameters()]
    return {info.name: info.full_shape for info in infos}


def stored_config(config: ModelConfig, factored: bool) -> ModelConfig:
    """The model whose parameters the folder stores: the one that ``config`` merges into, unless ``factored``."""
    merged = sorted(kind_of(config).converts_into)
    return config if factored or not merged else dataclasses.replace(config, attention=merged[0])


def hub_tensors(config: ModelConfig, factored: bool) -> list[HubTensor]:
    """The folder's tensors; ``factored`` keeps what the kind of attention could merge as it was trained."""
    stored = stored_config(config, factored)
    tensors = []
    for name, shape in parameter_shapes(stored).items():
        recipe = None if stored is config else recipe_of(config, stored, name)
        hub = hub_name(name)
        tensors.append(HubTensor(hub, hub_shape(shape, hub), recipe or Recipe((name,), _only)))
    return tensors


def _only(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor


def dtype_named(name: str) -> torch.dtype:
    """The torch type called ``name``: float32, bfloat16 or float16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
