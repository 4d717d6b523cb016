"""The distributions that initial values are drawn from, and the scales that the kinds of attention share.

In: a ModelConfig. Out: distributions, which model/init.py draws from. Always: s² = 2/(5D), the "small init" of Nguyen
and Salazar (2019), depends on the width alone.
"""

import math
from dataclasses import dataclass

from model.config import ModelConfig


@dataclass(frozen=True)
class Normal:
    """Independent normal numbers around 0."""

    std: float


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float


Distribution = Normal | Constant

ONES = Constant(1.0)
"""the scale of a norm"""


def reading(config: ModelConfig) -> Normal:
    """N(0, s²): of a matrix that reads the residual stream."""
    return Normal(math.sqrt(2 / (5 * config.hidden_size)))


def writing(config: ModelConfig) -> Normal:
    """N(0, s²/(2L)): of a matrix that writes into the residual stream; the 2L sums add up to one s²."""
    return Normal(reading(config).std / math.sqrt(2 * config.num_layers))
