"""The checkpoint format: which bytes of which file hold which part of which parameter.

A checkpoint is a folder `step_00000100/` with one `rank_00000.bin` per rank and `manifest.json`, written last. A file
is a row of fragments. A fragment is a contiguous range of one tensor-parallel shard, flattened row by row, of one
parameter's fp32 value or of one of its moments (pretrain/optimizers/), under the parameter's logical name. So a ZeRO
partition is written as it lies in memory, without any gather, and any other topology finds what it needs by arithmetic
(pretrain/checkpoint/reader.py).

Always: every element of every parameter stands in exactly one fragment; every fragment has a checksum; the manifest
has a digest of itself.
"""

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from common.errors import InputError
from common.files import sha256_of_json, write_json
from pretrain.places import CHECKPOINTS

FORMAT = 1
MANIFEST = "manifest.json"
POINTER = "latest"
BYTES_PER_ELEMENT = 4

WEIGHT = "weight"
"""the kind of a fragment of the parameter's value; other kinds are the names of moments"""


@dataclass(frozen=True)
class TensorLayout:
    """How one parameter was split over tensor-parallel ranks."""

    shape: tuple[int, ...]
    shard_dim: int | None
    tensor_size: int

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of one rank's shard; the whole shape where it is replicated."""
        shape = list(self.shape)
        if self.shard_dim is not None:
            shape[self.shard_dim] //= self.tensor_size
        return tuple(shape)

    @property
    def shards(self) -> int:
        """How many different shards exist."""
        return 1 if self.shard_dim is None else self.tensor_size


@dataclass(frozen=True)
class Fragment:
    """``numel`` fp32 values at byte ``offset`` of ``file``: elements ``start`` .. of the flattened shard."""

    name: str
    kind: str
    tensor_rank: int
    start: int
    numel: int
    file: str
    offset: int
    checksum: str

    @property
    def stop(self) -> int:
        """The element after the last."""
        return self.start + self.numel

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.numel * BYTES_PER_ELEMENT


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds."""

    step: int
    config: dict[str, Any]
    """the run's resolved config"""
    state: dict[str, Any]
    """the trainer's own state: data position, best validation loss, ..."""
    topology: str
    tensors: dict[str, TensorLayout]
    fragments: tuple[Fragment, ...]
    files: dict[str, int]
    """size of every file in bytes"""


def checksum(data: Any) -> str:
    """XXH3-64 of a buffer, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(data)


def checkpoints_of(run_folder: Path) -> Path:
    """Where all checkpoints of a run lie."""
    return run_folder / CHECKPOINTS


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return checkpoints / f"step_{step:08d}"


def list_steps(checkpoints: Path) -> list[Path]:
    """The folders of checkpoints, oldest first.

    Raises:
        InputError: the folder is there and cannot be read, so nobody knows what it holds.
    """
    try:
        found = [Path(entry.path) for entry in os.scandir(checkpoints) if is_step_name(entry.name) and entry.is_dir()]
    except FileNotFoundError:
        if checkpoints.is_symlink():
            raise InputError(f"{checkpoints}: a link to a place that is not there (not mounted?)") from None
        return []
    except OSError as error:
        raise InputError(f"{checkpoints}: cannot be read, so its checkpoints are not known: {error.strerror}") from None
    return sorted(found, key=step_of)


def is_step_name(name: str) -> bool:
    """Whether ``name`` is that of a whole checkpoint, not of a temporary folder."""
    return re.fullmatch(r"step_\d{8,}", name) is not None


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(folder.name.removeprefix("step_"))


def rank_file(rank: int, ending: str = "bin") -> str:
    """The name of a rank's file in a checkpoint; while it is written, other endings stand for notes of the rank's."""
    return f"rank_{rank:05d}.{ending}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``folder``'s manifest with a digest of its content."""
    body = dataclasses.asdict(manifest)
    body["fragments"] = [list(dataclasses.astuple(fragment)) for fragment in manifest.fragments]
    body["format"] = FORMAT
    write_json(folder / MANIFEST, {"digest": sha256_of_json(body), "body": body})
