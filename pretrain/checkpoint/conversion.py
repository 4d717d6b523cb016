"""One attention's weights as another's, where that is exact.

In: a checkpoint of one ModelConfig. Out: the same function as ranges of another ModelConfig's parameters.
Always: exact up to the rounding of one matrix product, or refused by name; moments have no exact counterpart.
Which conversions there are, each kind of attention declares (``Kind.recipe``).
"""

from dataclasses import fields

from torch import Tensor

from common.errors import InputError
from model.config import ModelConfig
from model.kinds.registry import KINDS, kind_of, recipe_of
from pretrain.checkpoint.layout import TensorLayout
from pretrain.checkpoint.reader import CheckpointReader, RangeReader

FREE = {"rope_theta", "rope_scaling", "norm_eps"}
"""settings that a branch may change: they are no parameters"""


def check_convertible(source: ModelConfig, target: ModelConfig, where: str) -> bool:
    """Whether the parameters must be converted; equal ones need not.

    Raises:
        InputError: names the first setting that cannot follow.
    """
    theirs, ours = kind_of(source), kind_of(target)
    of_one_kind = frozenset().union(*(kind.settings for kind in KINDS))
    shared = {field.name for field in fields(ModelConfig)} - {"attention"} - FREE - of_one_kind
    for name in sorted(shared, key=[field.name for field in fields(ModelConfig)].index):
        _check_equal(name, source, target, where, "a branch cannot change it")
    if ours is not theirs:
        if ours.name not in theirs.converts_into:
            raise InputError(
                f"model.attention: is {ours.name}, but {where} has {theirs.name}; exact conversions: {_conversions()}"
            )
        return True
    changed = {name for name in ours.settings if getattr(source, name) != getattr(target, name)}
    for name in sorted(changed):
        widening = ours.widens.get(name)
        if widening is None:
            _check_equal(name, source, target, where, "a branch cannot change it")
        elif (getattr(source, name), getattr(target, name)) != widening:
            _check_equal(name, source, target, where, f"only {widening[0]} widens into {widening[1]}")
    return bool(changed)


def _check_equal(name: str, source: ModelConfig, target: ModelConfig, where: str, rule: str) -> None:
    theirs, ours = getattr(source, name), getattr(target, name)
    if theirs != ours:
        raise InputError(f"model.{name}: is {ours}, but {where} has {theirs}; {rule}")


def _conversions() -> str:
    """All that the kinds declare, in words."""
    return ", ".join(f"{kind.name} into {other}" for kind in KINDS for other in sorted(kind.converts_into))


class ConvertedCheckpoint(RangeReader):
    """Reads a checkpoint as if it were one of ``target``; weights only."""

    def __init__(self, reader: CheckpointReader, target: ModelConfig) -> None:
        self._reader = reader
        self._target = target
        self._source = reader.config.model
        self._last: tuple[str, Tensor] | None = None

    def read_range(self, name: str, kind: str, target: TensorLayout, rank: int, start: int, numel: int) -> Tensor:
        """As ``CheckpointReader.read_range``."""
        recipe = recipe_of(self._source, self._target, name)
        if recipe is None:
            return self._reader.read_range(name, kind, target, rank, start, numel)
        if self._last is None or self._last[0] != name:
            self._last = name, recipe.make([self._reader.read(source) for source in recipe.sources])
        whole = self._last[1]
        if tuple(whole.shape) != target.shape:
            raise InputError(f"{name}: converted shape {tuple(whole.shape)}, this model's is {target.shape}")
        shard = whole if target.shard_dim is None else whole.chunk(target.tensor_size, target.shard_dim)[rank]
        return shard.reshape(-1)[start : start + numel]


def converted(reader: CheckpointReader, target: ModelConfig) -> "CheckpointReader | ConvertedCheckpoint":
    """``reader`` itself, or a view of it as ``target``'s parameters."""
    if check_convertible(reader.config.model, target, str(reader.folder)):
        return ConvertedCheckpoint(reader, target)
    return reader
