"""The initial value of every parameter: one table of distributions, and values that follow from names alone.

In: a freshly allocated layer and the run's seed. Out: the same layer, filled and named. Always: the value of a
parameter depends on (seed, logical name) only, so every topology starts from the same weights; one whole parameter
at a time is generated, then this rank's part is kept.

    parameter          distribution
    embedding, head    N(0, s²)             logits of a tied head start with variance 2/5
    ffn.gate, ffn.up   N(0, s²)
    ffn.down           N(0, s²/(2L))        2L sums into the residual stream add up to one
    norms              1
    attention.*        what the kind of attention declares (model/kinds/)

with s² = 2/(5D), the "small init" of Nguyen and Salazar (2019), which depends on the width alone.
"""

import dataclasses
import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.distributions import ONES, Constant, Distribution, reading, writing
from model.kinds.registry import kind_of
from model.parallel import Sharding, describe, info_of


def initialise(layer: nn.Module, prefix: str, config: ModelConfig, sharding: Sharding, seed: int) -> nn.Module:
    """Names the parameters of ``layer`` ``prefix`` + their path and fills them; on the meta device only names them."""
    for path, parameter in layer.named_parameters():
        info = dataclasses.replace(info_of(parameter), name=prefix + path)
        describe(parameter, info)
        if parameter.is_meta:
            continue
        whole = initial_value(info.name, info.full_shape, config, seed)
        if info.shard_dim is not None:
            whole = whole.chunk(sharding.size, dim=info.shard_dim)[sharding.rank]
        with torch.no_grad():
            parameter.copy_(whole)
    return layer


def initial_value(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The whole initial value of parameter ``name`` in fp32 on the CPU: a pure function of (seed, name)."""
    distribution = distribution_of(name, config)
    if isinstance(distribution, Constant):
        return torch.full(shape, distribution.value)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest, "little")))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).mul_(distribution.std)


def distribution_of(name: str, config: ModelConfig) -> Distribution:
    """What parameter ``name`` starts from.

    Raises:
        LookupError: nobody declares it.
    """
    path = name.split(".", 2)[2] if name.startswith("blocks.") else name
    part = path.removeprefix("attention.")
    declared = outside_attention(config) if part == path else kind_of(config).initial(config)
    if part not in declared:
        where = "model/init.py" if part == path else f"model/kinds by {config.attention}"
        raise LookupError(f"{name}: no initial distribution is declared in {where}")
    return declared[part]


def outside_attention(config: ModelConfig) -> dict[str, Distribution]:
    """The table's rows outside attention, by logical name without the block's prefix."""
    return {
        "embedding.weight": reading(config),
        "head.weight": reading(config),
        "final_norm.weight": ONES,
        "attention_norm.weight": ONES,
        "ffn_norm.weight": ONES,
        "ffn.gate.weight": reading(config),
        "ffn.up.weight": reading(config),
        "ffn.down.weight": writing(config),
    }
