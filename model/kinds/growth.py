"""A pretrained `standard` model's weights as the first weights of a differential kind, exactly.

In: a ModelConfig of kind `standard`, the name of another kind; then its parameters, by logical name. Out: the
ModelConfig of that kind, and its parameters. Always: the first logits are those of the `standard` model up to rounding;
every parameter has a gradient from the second step on; what the old model has no values for is drawn as for a new one.

Every head of `standard` becomes a differential head of the same width K, whose two query heads both begin as its query:

    A1 = A2 = A,  so  A1 V - lambda A2 V = (1 - lambda) A V,  and W_O takes the factor 1 / (1 - lambda)

diff, shared_diff   V is [v, u], 2K wide: v is the old value, u is drawn, and W_O begins with zeros for it. lambda's
                    vectors are drawn but one, which makes lambda = lambda_init. There is no head norm: it would
                    divide every token's head by its own size, which is no linear map (docs/exports.md).
shared_diff         base `head` holds the old projections; A is drawn and B begins with zeros, as in LoRA.
diff_v2             V is the old value; W_lambda begins with zeros, so that lambda is 1/2 for every token.

The two maps part at the first step: their gradients are G and -lambda G.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError, nearest
from model.config import ModelConfig, Owner
from model.init import initial_value
from model.kinds.diff import Diff
from model.kinds.diff_v2 import DiffV2
from model.kinds.shared_diff import SharedDiff
from model.kinds.standard import Standard

GROWN = (Diff.name, SharedDiff.name, DiffV2.name)
"""kinds that a `standard` model can become"""
Read = Callable[[str], Tensor]
"""a parameter of the `standard` model, by logical name"""


def grown_config(source: ModelConfig, attention: str, rank: int, down: Owner) -> ModelConfig:
    """The model of kind ``attention`` that ``source`` becomes; ``rank`` and ``down`` are those of `shared_diff`.

    Raises:
        InputError: ``source`` is not `standard`, or ``attention`` is no kind that it can become.
    """
    if attention not in GROWN:
        raise InputError(f"expected one of {', '.join(GROWN)}, is {attention!r}{nearest(attention, GROWN)}")
    if source.attention != Standard.name:
        raise InputError(f"only {Standard.name} can become {attention}, the model is {source.attention}")
    grown = dataclasses.replace(source, attention=attention, num_heads=2 * source.num_heads)
    if attention == DiffV2.name:
        return grown
    return dataclasses.replace(grown, head_norm=False, base="head", rank=rank, down=down)


@dataclass(frozen=True)
class Growth:
    """The parameters of ``target``, which ``grown_config`` gave, made of those of a `standard` model."""

    target: ModelConfig
    shapes: dict[str, tuple[int, ...]]
    """of the parameters of ``target``, by logical name"""
    read: Read
    seed: int

    def value(self, name: str) -> Tensor:
        """The parameter of ``target`` with this logical name, in fp32."""
        prefix, attention, part = name.rpartition("attention.")
        if not attention:
            return self.read(name)
        of = f"{prefix}{attention}"
        if part in ("query.weight", "key.weight"):
            return self._copied_into_both(name)
        if part in ("query_base.weight", "key_base.weight"):
            return self.read(f"{of}{part.removesuffix('_base.weight')}.weight")
        if part == "value.weight":
            return self._wider(name)
        if part == "output.weight":
            return self._output(name, of)
        if part in ("query_up", "key_up", "lambda_proj.weight"):
            return torch.zeros(self.shapes[name])
        if part == "lambda_q2":
            return self._balancing(of)
        return self._drawn(name)

    def _copied_into_both(self, name: str) -> Tensor:
        """Rows (head, k) twice, as (head, stream, k); the keys of `diff_v2` have one stream."""
        rows = self.read(name)
        streams = self.shapes[name][0] // rows.shape[0]
        return rows.unflatten(0, (-1, 1, self.target.head_dim)).expand(-1, streams, -1, -1).flatten(0, 2)

    def _wider(self, name: str) -> Tensor:
        """Rows (head, k) as (head, e): the first K of a value are the old ones, and others, if there are any, drawn."""
        old = self.read(name)
        if old.shape == self.shapes[name]:
            return old
        K = self.target.head_dim
        value_GED = self._drawn(name).unflatten(0, (-1, 2 * K))
        value_GED[:, :K] = old.unflatten(0, (-1, K))
        return value_GED.flatten(0, 1)

    def _output(self, name: str, of: str) -> Tensor:
        """Columns (head, e): the old ones over 1 - lambda, and zeros for what is drawn."""
        old, K = self.read(name), self.target.head_dim
        output_DHE = torch.zeros(self.shapes[name]).unflatten(1, (self.target.num_heads, -1))
        output_DHE[..., :K] = old.unflatten(1, (-1, K)) / (1 - self._first_lambda(of))
        return output_DHE.flatten(1)

    def _first_lambda(self, of: str) -> float:
        """lambda before the first step."""
        if self.target.attention == DiffV2.name:
            return 0.5
        return self.target.lambda_init_of(int(of.split(".")[1]))

    def _balancing(self, of: str) -> Tensor:
        """The nearest l_q2 to the drawn one with l_q2 . l_k2 = l_q1 . l_k1, so that lambda = lambda_init."""
        q1_K, k1_K, q2_K, k2_K = (self._drawn(f"{of}lambda_{end}").double() for end in ("q1", "k1", "q2", "k2"))
        missing = q1_K @ k1_K - q2_K @ k2_K
        return (q2_K + k2_K * missing / (k2_K @ k2_K)).float()

    def _drawn(self, name: str) -> Tensor:
        return initial_value(name, self.shapes[name], self.target, self.seed)
