"""The initial value of every parameter: one table of distributions, and values that follow from names alone.

In: a freshly allocated layer and the run's seed. Out: the same layer, filled and named. Always: the value of a
parameter depends on (seed, logical name) only, so every topology starts from the same weights; one whole parameter
at a time is generated, then this rank's part is kept.

    parameter                                   distribution
    embedding, head                             N(0, s²)             logits of a tied head start with variance 2/5
    query, key, value, gate, up, lambda_proj    N(0, s²)
    attention.output, ffn.down                  N(0, s²/(2L))        2L sums into the residual stream add up to one
    query_base, key_base                        N(0, s²/2)           half of the projection's variance
    query_down, key_down (A)                    N(0, s²)
    query_up, key_up (B)                        N(0, 1/(2R))         A B has variance R s²/(2R) = s²/2: the other half
    lambda_q1, lambda_k1, lambda_q2, lambda_k2  N(0, 0.1²)           DIFF paper, section 2.1
    norms                                       1

with s² = 2/(5D), the "small init" of Nguyen and Salazar (2019), which depends on the width alone. So each element of
a shared_diff projection W + A B has the variance s² that diff's has; base and update bring half of it each, and the
two streams of a head start with correlation 1/2: neither equal nor independent.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.parallel import Sharding, describe, info_of


def hidden_std(config: ModelConfig) -> float:
    """s in the table: the standard deviation of a matrix that reads the residual stream."""
    return math.sqrt(2 / (5 * config.hidden_size))


def _residual_std(config: ModelConfig) -> float:
    return hidden_std(config) / math.sqrt(2 * config.num_layers)


def _base_std(config: ModelConfig) -> float:
    return hidden_std(config) / math.sqrt(2)


def _up_std(config: ModelConfig) -> float:
    return 1 / math.sqrt(2 * config.rank)


def _lambda_std(config: ModelConfig) -> float:
    return 0.1


STANDARD_DEVIATIONS: dict[str, Callable[[ModelConfig], float]] = {
    "embedding.weight": hidden_std,
    "head.weight": hidden_std,
    "attention.query.weight": hidden_std,
    "attention.key.weight": hidden_std,
    "attention.value.weight": hidden_std,
    "attention.lambda_proj.weight": hidden_std,
    "attention.query_base.weight": _base_std,
    "attention.key_base.weight": _base_std,
    "attention.query_down": hidden_std,
    "attention.key_down": hidden_std,
    "attention.query_up": _up_std,
    "attention.key_up": _up_std,
    "attention.lambda_q1": _lambda_std,
    "attention.lambda_k1": _lambda_std,
    "attention.lambda_q2": _lambda_std,
    "attention.lambda_k2": _lambda_std,
    "attention.output.weight": _residual_std,
    "ffn.gate.weight": hidden_std,
    "ffn.up.weight": hidden_std,
    "ffn.down.weight": _residual_std,
}
"""Logical name without the block's prefix -> standard deviation around 0. Whatever is not here is a norm's scale."""


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
    std = STANDARD_DEVIATIONS.get(_table_key(name))
    if std is None:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64DXSM(int.from_bytes(digest, "little")))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).mul_(std(config))


def _table_key(name: str) -> str:
    """``blocks.3.attention.query.weight`` -> ``attention.query.weight``."""
    return name.split(".", 2)[2] if name.startswith("blocks.") else name
