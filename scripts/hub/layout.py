"""Which tensor of an exported folder is made of which parameters of a checkpoint, and back.

In: a ModelConfig. Out: the folder's tensors in the order in which they are written, each with its sources.
Always: one tensor at a time can be made, from at most three parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig
from model.layers import build_layers
from model.parallel import Unsharded, info_of
from model.shared_projection import merged_weight

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
    "attention.query_base.weight": "self_attn.q_proj.base",
    "attention.query_down": "self_attn.q_proj.down",
    "attention.query_up": "self_attn.q_proj.up",
    "attention.key_base.weight": "self_attn.k_proj.base",
    "attention.key_down": "self_attn.k_proj.down",
    "attention.key_up": "self_attn.k_proj.up",
    "attention.lambda_q1": "self_attn.lambda_q1",
    "attention.lambda_k1": "self_attn.lambda_k1",
    "attention.lambda_q2": "self_attn.lambda_q2",
    "attention.lambda_k2": "self_attn.lambda_k2",
    "attention.lambda_proj.weight": "self_attn.lambda_proj.weight",
    "attention.head_norm.weight": "self_attn.head_norm.weight",
}
"""Logical name inside a block -> name inside a decoder layer of the folder."""


@dataclass(frozen=True)
class HubTensor:
    """One tensor of the folder."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    """logical names of the parameters that it is made of"""
    make: Callable[[Sequence[Tensor]], Tensor]
    """the tensor from its sources' values"""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def hub_name(logical: str) -> str:
    """``blocks.3.ffn.up.weight`` -> ``model.layers.3.mlp.up_proj.weight``."""
    head, _, rest = logical.partition(".")
    if head != "blocks":
        return f"{OUTER[head]}.{rest}"
    block, _, name = rest.partition(".")
    return f"model.layers.{block}.{BLOCK[name]}"


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Logical name and shape of every parameter of the model, in the order of its layers."""
    layers = build_layers(config, Unsharded(), seed=0, device="meta")
    own = (layer for layer in layers if layer.tied_to is None)
    infos = [info_of(parameter) for layer in own for parameter in layer.build().parameters()]
    return {info.name: info.full_shape for info in infos}


def hub_tensors(config: ModelConfig, factored: bool) -> list[HubTensor]:
    """The folder's tensors; ``factored`` keeps base, down and up of ``shared_diff`` apart instead of merging them."""
    merging = config.attention == "shared_diff" and not factored
    tensors = []
    for name, shape in parameter_shapes(config).items():
        if merging and name.endswith(("_base.weight", "_up", "_down")):
            if name.endswith("_base.weight"):
                tensors.append(_merged(config, name.removesuffix("_base.weight")))
            continue
        tensors.append(HubTensor(hub_name(name), shape, (name,), _only))
    return tensors


def _merged(config: ModelConfig, stem: str) -> HubTensor:
    shape = (2 * config.num_heads * config.head_dim, config.hidden_size)
    sources = (f"{stem}_base.weight", f"{stem}_down", f"{stem}_up")
    return HubTensor(hub_name(f"{stem}.weight"), shape, sources, _merge)


def _merge(parts: Sequence[Tensor]) -> Tensor:
    base, down, up = parts
    return merged_weight(base, down, up)


def _only(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor


def dtype_named(name: str) -> torch.dtype:
    """The torch type called ``name``: float32, bfloat16 or float16."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
