"""Rotary positions in transformers' words, and back.

In: a ModelConfig, or config.json of a folder. Out: `rope_parameters`; base and RopeScaling. Always: what is written
makes transformers compute our angles; what ours cannot be equal to is refused by name.

ntk is nothing but a larger base, and is written as that base. Before release 5 transformers read `rope_scaling` beside
`rope_theta`; later ones read `rope_parameters`, or the older name where there is one.
"""

import math
from typing import Any

from common.ranges import LONGEST_SEQUENCE
from model.config import ModelConfig
from model.rope_scaling import RopeScaling
from scripts.hub.hub_config import HubConfig

LARGEST_BASE = 1e30
SECTIONS = ("rope_parameters", "rope_scaling")
ROTATION = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
YARN = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
YARN |= {"attention_factor", "mscale", "mscale_all_dim"}
"""keys that a section may have, beside those of any rotation"""
BELOW_ONE, LARGEST_FACTOR = math.nextafter(1, 0), 2.0**20
"""the factors of RopeScaling"""


def rope_base(config: ModelConfig) -> float:
    """The base of the powers, as a model without scaling would have it."""
    return config.rope_scaling.base(config.rope_theta, config.head_dim)


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """The section of config.json."""
    scaling, base = config.rope_scaling, rope_base(config)
    if scaling.kind in ("none", "ntk"):
        return {"rope_type": "default", "rope_theta": base}
    words: dict[str, Any] = {"rope_type": scaling.kind, "rope_theta": base, "factor": scaling.factor}
    if scaling.kind == "yarn":
        words |= {
            "original_max_position_embeddings": scaling.original_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
        }
        words |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
    return words


def is_scaled(config: ModelConfig) -> bool:
    """Whether the base alone does not tell the angles."""
    return rope_parameters(config)["rope_type"] != "default"


def theta_of(config: HubConfig) -> float:
    """The base of the rotary positions of a model of others, which may stand in several places."""
    told = [config.values.get("rope_theta"), *(config.section(name).get("rope_theta") for name in SECTIONS)]
    bases = {config.as_number("rope_theta", value, 0, LARGEST_BASE) for value in told if value is not None}
    if len(bases) > 1:
        raise config.wrong("rope_theta", f"is told twice: {' and '.join(map(str, sorted(bases)))}")
    return bases.pop() if bases else 10000.0


def scaling_of(config: HubConfig) -> RopeScaling:
    """How the rotary positions of a folder are scaled.

    Raises:
        InputError: in a way that ours cannot equal, or in two ways.
    """
    found = {name: scaling for name in SECTIONS if (scaling := _scaling_in(config, name)) is not None}
    if len(set(found.values())) > 1:
        raise config.wrong("rope_scaling", "and rope_parameters scale the rotary positions in two ways")
    return next(iter(found.values()), RopeScaling())


def _scaling_in(config: HubConfig, name: str) -> RopeScaling | None:
    """What one section says; None: nothing."""
    section = config.section(name)
    kind = section.get("rope_type", section.get("type"))
    if kind in (None, "default") and not any(isinstance(value, dict) for value in section.values()):
        return None
    if kind not in ("linear", "yarn"):
        raise config.wrong(name, f"scaled rotary positions ({kind!s:.60}); linear and yarn can be computed here")
    read = HubConfig(config.path, section)
    factor = read.number("factor", BELOW_ONE, LARGEST_FACTOR)
    if kind == "linear":
        return RopeScaling("linear", factor)
    unknown = {key for key in section.keys() - YARN - ROTATION if (key, section[key]) != ("truncate", True)}
    if unknown:
        raise config.wrong(name, f"yarn with {min(unknown)!s:.60}, which cannot be computed here")
    longest = config.integer("max_position_embeddings", 2, LONGEST_SEQUENCE)
    return RopeScaling(
        "yarn",
        factor,
        read.integer("original_max_position_embeddings", 2, LONGEST_SEQUENCE, default=longest),
        read.number("beta_fast", 0, 1e6, default=32.0),
        read.number("beta_slow", 0, 1e6, default=1.0),
        _attention_factor(read, factor),
    )


def _attention_factor(read: HubConfig, factor: float) -> float | None:
    """The amplitude; None: the usual one. The pair of `mscale` is DeepSeek's way to say it."""
    if read.values.get("attention_factor") is not None:
        return read.number("attention_factor", 0, 100)
    if read.values.get("mscale") is None or read.values.get("mscale_all_dim") is None:
        return None
    above, below = (0.1 * read.number(key, 0, 100) * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim"))
    return above / below
