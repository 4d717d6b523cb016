"""Reads a checkpoint for any topology, or parameter by parameter for export.

In: a checkpoint folder. Out: ranges of any tensor-parallel shard, or whole parameters, as fp32.
Always: nothing damaged and no NaN is returned; a whole parameter is the largest thing in memory.
"""

import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.cli import config_from_values
from common.errors import InputError
from pretrain.checkpoint.layout import BYTES_PER_ELEMENT, WEIGHT, Fragment, TensorLayout, checksum
from pretrain.checkpoint.manifest_check import read_manifest
from pretrain.config import RunConfig
from pretrain.optimizers.registry import never_negative


class RangeReader(ABC):
    """A checkpoint, as itself or converted."""

    @abstractmethod
    def read_range(self, name: str, kind: str, target: TensorLayout, rank: int, start: int, numel: int) -> torch.Tensor:
        """Elements ``start`` .. ``start + numel`` of the flattened shard that ``rank`` has under ``target``."""


class CheckpointReader(RangeReader):
    """One checkpoint folder, opened for reading; fragments are checked the first time that they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._checked: set[tuple[str, int]] = set()
        self._fragments: dict[tuple[str, str, int], list[Fragment]] = defaultdict(list)
        for fragment in self.manifest.fragments:
            self._fragments[fragment.name, fragment.kind, fragment.tensor_rank].append(fragment)
        for fragments in self._fragments.values():
            fragments.sort(key=lambda fragment: fragment.start)
        self._check_sizes()

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self.manifest.step

    @property
    def applied_steps(self) -> int:
        """Those that changed the weights; older checkpoints do not tell them from the others."""
        return int(self.manifest.state.get("trainer", {}).get("applied_steps", self.step))

    @property
    def config(self) -> RunConfig:
        """The config of the run that wrote it."""
        return config_from_values(RunConfig, self.manifest.config, str(self.folder / "manifest.json"))

    def names(self) -> list[str]:
        """The logical names of all parameters."""
        return list(self.manifest.tensors)

    def moments(self, name: str) -> list[str]:
        """The names of the moments of a parameter."""
        kinds = dict.fromkeys(fragment.kind for fragment in self.fragments_of(name))
        return [kind for kind in kinds if kind != WEIGHT]

    def read(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """One whole parameter, or moment, in fp32, of its full shape."""
        layout = self.manifest.tensors[name]
        shards = [
            torch.from_numpy(self._read_stored(name, kind, rank, 0, _numel(layout.shard_shape))).view(
                layout.shard_shape
            )
            for rank in range(layout.shards)
        ]
        return shards[0] if layout.shard_dim is None else torch.cat(shards, dim=layout.shard_dim)

    def read_range(self, name: str, kind: str, target: TensorLayout, rank: int, start: int, numel: int) -> torch.Tensor:
        """Elements ``start`` .. ``start + numel`` of the flattened shard that ``rank`` has under ``target``.

        Raises:
            InputError: no such parameter, another shape, or a damaged file.
        """
        stored = self.manifest.tensors.get(name)
        if stored is None:
            raise InputError(f"{self.folder}: holds no parameter {name}; is it a checkpoint of another model?")
        if stored.shape != target.shape:
            raise InputError(f"{self.folder}: {name} has shape {stored.shape}, this model's has {target.shape}")
        same_split = stored.shard_dim is None or stored.tensor_size == target.tensor_size
        if same_split and target.shard_dim == stored.shard_dim:
            stored_rank = rank if stored.shard_dim is not None else 0
            return torch.from_numpy(self._read_stored(name, kind, stored_rank, start, numel))
        return self._read_other_split(name, kind, stored, target, rank, start, numel)

    def _read_other_split(
        self, name: str, kind: str, stored: TensorLayout, target: TensorLayout, rank: int, start: int, numel: int
    ) -> torch.Tensor:
        """The same range, put together from the shards of another tensor-parallel size.

        A tensor is seen as [rows, split, columns] around its split dimension. Of every stored shard only the rows
        that the range touches are read.
        """
        dim = target.shard_dim if target.shard_dim is not None else stored.shard_dim
        assert dim is not None
        columns = _numel(target.shape[dim + 1 :])
        wide = target.shard_shape[dim] * columns  # elements of one row of the target shard
        first_row, last_row = start // wide, -(-(start + numel) // wide)
        begin = rank * wide if target.shard_dim is not None else 0  # in one row of the whole tensor
        rows = np.empty((last_row - first_row, wide), dtype=np.float32)
        narrow = stored.shard_shape[dim] * columns
        for stored_rank in range(stored.shards):
            low = max(begin, stored_rank * narrow)
            high = min(begin + wide, (stored_rank + 1) * narrow)
            if low >= high:
                continue
            source = self._read_stored(name, kind, stored_rank, first_row * narrow, (last_row - first_row) * narrow)
            offset = stored_rank * narrow
            rows[:, low - begin : high - begin] = source.reshape(-1, narrow)[:, low - offset : high - offset]
        flat = rows.reshape(-1)[start - first_row * wide :][:numel]
        return torch.from_numpy(np.ascontiguousarray(flat))

    def _read_stored(self, name: str, kind: str, rank: int, start: int, numel: int) -> np.ndarray:
        """Elements ``start`` .. of a stored shard, from as many fragments as it takes."""
        values = np.empty(numel, dtype=np.float32)
        filled = 0
        for fragment in self._fragments[name, kind, rank]:
            low, high = max(start, fragment.start), min(start + numel, fragment.stop)
            if low < high:
                self._check(fragment)
                target = values[low - start : high - start]
                self._pread(fragment, (low - fragment.start) * BYTES_PER_ELEMENT, target)
                filled += high - low
        if filled != numel:
            raise InputError(f"{self.folder}: {kind} of {name} is incomplete: {filled} of {numel} elements")
        return values

    def _pread(self, fragment: Fragment, skip: int, target: np.ndarray) -> None:
        view = target.view(np.uint8).data
        path = self.folder / fragment.file
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        try:
            done = 0
            while done < len(view):
                count = os.preadv(descriptor, [view[done:]], fragment.offset + skip + done)
                if count == 0:
                    raise InputError(f"{path}: ends early, at byte {fragment.offset + skip + done}")
                done += count
        finally:
            os.close(descriptor)

    def _check(self, fragment: Fragment) -> None:
        key = (fragment.file, fragment.offset)
        if key in self._checked:
            return
        values = np.empty(fragment.numel, dtype=np.float32)
        self._pread(fragment, 0, values)
        if checksum(values) != fragment.checksum:
            raise InputError(
                f"{self.folder / fragment.file}: damaged: {fragment.kind} of {fragment.name}, "
                f"bytes {fragment.offset}..{fragment.offset + fragment.bytes}, does not match its checksum"
            )
        finite = np.isfinite(values).all()
        if not finite or (fragment.kind in never_negative() and values.min(initial=0.0) < 0):
            what = "values below 0" if finite else "values that are not finite"
            raise InputError(
                f"{self.folder / fragment.file}: {fragment.kind} of {fragment.name} holds {what}; nothing can be "
                "trained from it"
            )
        self._checked.add(key)

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """Checks every ``parts``-th fragment from ``part`` on, so that many ranks can share the work.

        Raises:
            InputError: names the first damaged file and parameter.
        """
        for fragment in self.manifest.fragments[part::parts]:
            self._check(fragment)

    def fragments_of(self, name: str) -> Iterator[Fragment]:
        """Every fragment of a parameter and its moments."""
        return (fragment for fragment in self.manifest.fragments if fragment.name == name)

    def _check_sizes(self) -> None:
        for file, size in self.manifest.files.items():
            path = self.folder / file
            try:
                found = path.stat().st_size if path.is_file() else None
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise InputError(f"{path}: {state}, the manifest says {size} bytes")


def _numel(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
