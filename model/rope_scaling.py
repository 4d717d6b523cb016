"""Rotary positions beyond the length that weights were trained at: which way, and how far.

In: the `model.rope_scaling` section. Out: a checked, frozen RopeScaling; model/rope.py computes with it.
Always: a number that the chosen way does not read is refused, not passed over.

    linear   positions divided by the factor s (Chen et al., 2023, arXiv 2306.15595)
    ntk      base theta * s^(K / (K - 2)): the slowest pair turns s times slower, the fastest as before (bloc97, 2023)
    yarn     pairs that turn often within the original length as they are, those that turn seldom s times slower, a
             ramp between them, and larger logits (Peng et al., 2023, arXiv 2309.00071)
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from common.errors import InputError
from common.ranges import LONGEST_SEQUENCE, check_range

WHERE = "model.rope_scaling."
YARN_ONLY = ("original_length", "beta_fast", "beta_slow", "attention_factor")


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions beyond the length that the weights were trained at (model/rope_scaling.py)."""

    kind: Literal["none", "linear", "ntk", "yarn"] = "none"
    """none, linear (positions divided by the factor), ntk (a larger base) or yarn (slow pairs slower, larger logits)"""
    factor: float = 1.0
    """s: the length to reach over the length that the weights were trained at"""
    original_length: int | None = None
    """yarn: tokens of a sequence that the weights were trained at, without scaling"""
    beta_fast: float = 32.0
    """yarn: a pair that turns at least this often within the original length stays as it is"""
    beta_slow: float = 1.0
    """yarn: a pair that turns at most this often within the original length becomes s times slower"""
    attention_factor: float | None = None
    """yarn: what rotated queries and keys are multiplied with; default: 0.1 ln(s) + 1"""

    def __post_init__(self) -> None:
        check_range(self, WHERE, "factor", low=1, high=2**20)
        check_range(self, WHERE, "original_length", low=2, high=LONGEST_SEQUENCE)
        check_range(self, WHERE, "beta_fast", "beta_slow", above=0, high=1e6)
        check_range(self, WHERE, "attention_factor", above=0, high=100)
        unread = {"none": ("factor", *YARN_ONLY), "yarn": ()}.get(self.kind, YARN_ONLY)
        for entry in dataclasses.fields(self):
            if entry.name in unread and getattr(self, entry.name) != entry.default:
                readers = "linear, ntk and yarn read" if entry.name == "factor" else "yarn reads"
                raise InputError(
                    f"{WHERE}{entry.name}: is {getattr(self, entry.name)}, which only {readers}; {WHERE}kind is "
                    f"{self.kind}"
                )
        if self.kind == "yarn" and self.original_length is None:
            raise InputError(f"{WHERE}original_length: yarn needs it: the tokens of a sequence before the scaling")
        if self.beta_fast <= self.beta_slow:
            raise InputError(f"{WHERE}beta_fast: must be above beta_slow ({self.beta_slow}), is {self.beta_fast}")

    def check_fits(self, theta: float, head_dim: int) -> None:
        """Raises InputError where rotary positions of base ``theta`` and ``head_dim`` cannot be scaled this way."""
        if self.kind == "ntk" and head_dim < 4:
            raise InputError(f"{WHERE}kind: ntk changes no base of a single pair (model.head_dim {head_dim})")
        if self.kind == "yarn" and theta <= 1:
            raise InputError(
                f"{WHERE}kind: yarn needs pairs that turn the slower, model.rope_theta above 1, is {theta}"
            )

    def base(self, theta: float, head_dim: int) -> float:
        """The base of the powers: ``theta``, or what ntk makes of it."""
        return theta * self.factor ** (head_dim / (head_dim - 2)) if self.kind == "ntk" else theta

    @property
    def amplitude(self) -> float:
        """What rotated queries and keys are multiplied with; logits with its square."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor if self.attention_factor is not None else 0.1 * math.log(self.factor) + 1

    def ramp(self, theta: float, head_dim: int) -> tuple[float, float]:
        """yarn: the pair up to which all stay as they are, and the one from which on all are slower by the factor."""
        assert self.original_length is not None
        fast, slow = (
            head_dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        first, last = max(math.floor(fast), 0), min(math.ceil(slow), head_dim - 1)
        return first, last if last != first else last + 0.001
