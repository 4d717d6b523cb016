"""One attention's weights as another's, where that is exact: the readings of Shared DIFF merge and widen.

In: a checkpoint of one ModelConfig. Out: the same function as ranges of another ModelConfig's parameters.
Always: exact up to the rounding of one matrix product, or refused by name; Adam moments have no exact counterpart.

    shared_diff -> diff          W = base + A B for every head and stream (model/shared_projection.merged_weight)
    base layer  -> base head     the one base stands in every head's slice
    down layer  -> down head     the one A stands in every head's place
"""

from collections.abc import Callable
from dataclasses import fields

from torch import Tensor

from common.errors import InputError
from model.config import ModelConfig
from model.shared_projection import merged_weight
from pretrain.checkpoint.layout import Kind, TensorLayout
from pretrain.checkpoint.reader import CheckpointReader

FREE = {"rope_theta", "norm_eps"}
"""settings that a branch may change: they are no parameters"""
SHARED_ONLY = {"attention", "base", "down", "rank"}


def check_convertible(source: ModelConfig, target: ModelConfig, where: str) -> bool:
    """Whether the parameters must be converted; equal ones need not.

    Raises:
        InputError: names the first setting that cannot follow.
    """
    for field in fields(ModelConfig):
        name = field.name
        theirs, ours = getattr(source, name), getattr(target, name)
        if name not in FREE | SHARED_ONLY and theirs != ours:
            raise InputError(f"model.{name}: is {ours}, but {where} has {theirs}; a branch cannot change it")
    if source.attention != target.attention and (source.attention, target.attention) != ("shared_diff", "diff"):
        raise InputError(
            f"model.attention: is {target.attention}, but {where} has {source.attention}; only shared_diff converts "
            "exactly, and only into diff"
        )
    if target.attention != "shared_diff":
        return source.attention != target.attention
    if source.rank != target.rank:
        raise InputError(f"model.rank: is {target.rank}, but {where} has {source.rank}; a branch cannot change it")
    for name in ("base", "down"):
        if getattr(source, name) == "head" and getattr(target, name) == "layer":
            raise InputError(f"model.{name}: is layer, but {where} has head; only layer widens into head")
    return (source.base, source.down) != (target.base, target.down)


class ConvertedCheckpoint:
    """Reads a checkpoint as if it were one of ``target``; weights only."""

    def __init__(self, reader: CheckpointReader, target: ModelConfig) -> None:
        self._reader = reader
        self._target = target
        self._source = reader.config.model
        self._last: tuple[str, Tensor] | None = None

    def read_range(self, name: str, kind: Kind, target: TensorLayout, rank: int, start: int, numel: int) -> Tensor:
        """As ``CheckpointReader.read_range``."""
        convert = self._conversion(name)
        if convert is None:
            return self._reader.read_range(name, kind, target, rank, start, numel)
        if self._last is None or self._last[0] != name:
            self._last = name, convert()
        whole = self._last[1]
        if tuple(whole.shape) != target.shape:
            raise InputError(f"{name}: converted shape {tuple(whole.shape)}, this model's is {target.shape}")
        shard = whole if target.shard_dim is None else whole.chunk(target.tensor_size, target.shard_dim)[rank]
        return shard.reshape(-1)[start : start + numel]

    def _conversion(self, name: str) -> Callable[[], Tensor] | None:
        """How the whole of parameter ``name`` comes about; None: as it is stored."""
        prefix, _, part = name.rpartition("attention.")
        if not prefix:
            return None
        stem = name.removesuffix(".weight")
        if self._target.attention == "diff" and part in ("query.weight", "key.weight"):
            return lambda: merged_weight(
                *(self._reader.read(f"{stem}{end}") for end in ("_base.weight", "_down", "_up"))
            )
        heads = self._target.num_heads
        if part.endswith("_base.weight") and self._source.base != self._target.base:
            return lambda: self._reader.read(name).repeat(heads, 1)
        if part.endswith("_down") and self._source.down != self._target.down:
            return lambda: self._reader.read(name).expand(heads, -1, -1, -1)
        return None


def converted(reader: CheckpointReader, target: ModelConfig) -> "CheckpointReader | ConvertedCheckpoint":
    """``reader`` itself, or a view of it as ``target``'s parameters."""
    if check_convertible(reader.config.model, target, str(reader.folder)):
        return ConvertedCheckpoint(reader, target)
    return reader
