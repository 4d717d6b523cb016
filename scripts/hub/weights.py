"""Writes the tensors of a folder as safetensors shards with an index, and reads them back one by one.

In: HubTensors and a reader of parameters. Out: `model-00001-of-0000N.safetensors`, ..., and
`model.safetensors.index.json`. Always: no more than one shard and one parameter is in memory.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import InputError
from common.files import read_json, write_json
from scripts.hub.layout import HubTensor, hub_shape, renewed

INDEX = "model.safetensors.index.json"
FILE_NAME = re.compile(r"[\w. +-]+\.safetensors")
STORED_TYPES = ("F64", "F32", "F16", "BF16")
"""others are quantized, and mean nothing without their scales"""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class WeightFiles:
    """The tensors of a folder, by today's names: which file holds which."""

    folder: Path
    file_of: dict[str, str]
    names_before: Mapping[str, str] = field(default_factory=dict)
    """today's name -> the name in the file, where an earlier version gave another one"""

    def read(self, name: str) -> Tensor:
        """One tensor in the type that it is stored in.

        Raises:
            InputError: no such tensor, or a damaged file.
        """
        with self._opened(name) as file:
            value: Tensor = file.get_tensor(self.names_before.get(name, name))
            return value.reshape(self._shape(name, value.shape))

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Looks at the header: is there a tensor of this name and shape, in a type of plain weights?

        Raises:
            InputError: there is none, or another one.
        """
        with self._opened(name) as file:
            part = file.get_slice(self.names_before.get(name, name))
            found, kind = self._shape(name, part.get_shape()), str(part.get_dtype())
        where = self.folder / self.file_of[name]
        if found != shape:
            raise InputError(f"{where}: {name} has the shape {list(found)}, by config.json it has {list(shape)}")
        if kind not in STORED_TYPES:
            raise InputError(f"{where}: {name} is stored as {kind}; weights of {', '.join(STORED_TYPES)} can be read")

    def _shape(self, name: str, stored: Sequence[int]) -> tuple[int, ...]:
        """Today's shape of what is stored with the shape ``stored``."""
        return hub_shape(tuple(stored), name) if name in self.names_before else tuple(stored)

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        if name not in self.file_of:
            raise InputError(f"{self.folder}: holds no tensor {name}; is it a folder of another model?")
        path = self.folder / self.file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged: {error}") from None


def write_weights(
    folder: Path,
    tensors: Sequence[HubTensor],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
    shard_bytes: int,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes ``tensors`` in ``dtype``; ``read`` gives a parameter by its logical name.

    Raises:
        InputError: a value that is no number, or that ``dtype`` cannot hold.
    """
    shards = _plan(tensors, dtype, shard_bytes)
    file_of: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        values = {}
        for tensor in shard:
            value = tensor.recipe.make([read(source) for source in tensor.recipe.sources])
            check_finite(value, tensor.name)
            values[tensor.name] = value.to(dtype).reshape(tensor.shape).contiguous()
            check_fits(values[tensor.name], tensor.name)
            total += values[tensor.name].nbytes
            file_of[tensor.name] = name
        save_file(values, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors lets only the owner read
        progress(f"{name}: {len(values)} tensors, {sum(value.nbytes for value in values.values()) / 1e6:.1f} MB")
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": file_of})


def open_weights(folder: Path) -> WeightFiles:
    """The weights of a Hugging Face folder, with one file or several.

    Raises:
        InputError: no weights, a missing file, or a file that is not whole.
    """
    single = folder / "model.safetensors"
    file_of: Any
    if single.exists():  # transformers, too, looks for the single file first
        file_of = dict.fromkeys(_names(single), single.name)
    elif (folder / INDEX).exists():
        index = read_json(folder / INDEX, "index of weights")
        file_of = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(file_of, dict):
            raise InputError(f"{folder / INDEX}: damaged: has no weight_map")
        for file in file_of.values():
            if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
                raise InputError(f"{folder / INDEX}: names {file!r:.100}; expected a safetensors file of this folder")
    elif pickled := sorted(path.name for ending in PICKLES for path in folder.glob(f"*{ending}")):
        raise InputError(
            f"{folder / pickled[0]}: is a pickle, which can run code when it is opened; save the model as safetensors"
        )
    else:
        raise InputError(f"{folder}: holds neither {INDEX} nor model.safetensors; is it a Hugging Face model folder?")
    for file in sorted(set(file_of.values())):
        expected = {name for name, where in file_of.items() if where == file}
        missing = expected - set(_names(folder / file))
        if missing:
            raise InputError(f"{folder / file}: lacks {len(missing)} tensors of the index, such as {min(missing)}")
    today = {name: renewed(name) for name in file_of if renewed(name) not in file_of}
    file_of = {today.get(name, name): file for name, file in file_of.items()}
    return WeightFiles(folder, file_of, {new: name for name, new in today.items()})


def check_finite(value: Tensor, name: str) -> None:
    """Refuses weights that are NaN or infinite, which no model can compute with.

    Raises:
        InputError: names the tensor and how much of it.
    """
    if not bool(value.isfinite().all()):
        count = int((~value.isfinite()).sum())
        raise InputError(f"{name}: {count} of {value.numel()} weights are NaN or infinite; take an earlier checkpoint")


def check_fits(stored: Tensor, name: str) -> None:
    """Refuses finite weights that became infinite in the type of ``stored``."""
    if not bool(stored.isfinite().all()):
        kind = str(stored.dtype).removeprefix("torch.")
        raise InputError(f"{name}: has weights beyond the range of {kind}; choose --dtype bfloat16 or float32")


def _plan(tensors: Sequence[HubTensor], dtype: torch.dtype, shard_bytes: int) -> list[list[HubTensor]]:
    """Rows of tensors, each row at most ``shard_bytes`` unless one tensor alone is larger."""
    shards: list[list[HubTensor]] = []
    filled = 0
    for tensor in tensors:
        size = tensor.numel * dtype.itemsize
        if not shards or filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
    return shards


def _names(path: Path) -> Iterator[str]:
    """The tensors of one safetensors file, whose size must be the one that its header tells."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file")
    try:
        with safe_open(path, framework="pt") as file:
            return iter(list(file.keys()))
    except FileNotFoundError:
        raise InputError(f"{path}: is missing, though the index names it") from None
    except (SafetensorError, OSError, struct.error) as error:
        raise InputError(f"{path}: damaged or half-written: {error}") from None
