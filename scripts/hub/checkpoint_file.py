"""A checkpoint made of whole parameters, for training to branch from.

In: a RunConfig and parameters one by one. Out: `step_00000000/` with weights and empty moments.
Always: whole or absent; no more than one parameter is in memory; the moments, which are all zero, take no disk space.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.files import flush_folder
from pretrain.checkpoint.layout import (
    WEIGHT,
    Fragment,
    Manifest,
    TensorLayout,
    checksum,
    rank_file,
    step_folder,
    write_manifest,
)
from pretrain.config import RunConfig
from pretrain.optimizers.registry import optimizer_kind
from scripts.hub.whole_folder import whole_folder

DATA_FILE = rank_file(0)


def write_checkpoint(
    checkpoints: Path,
    config: RunConfig,
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    state: dict[str, Any],
) -> Path:
    """Writes the parameters called ``shapes``, whose values ``read`` gives, as step 0; returns the folder."""
    final = step_folder(checkpoints, 0)
    with whole_folder(final) as temporary:
        fragments = _write_values(temporary / DATA_FILE, shapes, read, min(optimizer_kind(config.optimizer).moments()))
        layouts = {name: TensorLayout(shape, None, 1) for name, shape in shapes.items()}
        files = {DATA_FILE: fragments[-1].offset + fragments[-1].bytes}
        manifest = Manifest(0, dataclasses.asdict(config), state, "imported", layouts, tuple(fragments), files)
        write_manifest(temporary, manifest)
        flush_folder(temporary)
    return final


def _write_values(
    path: Path, shapes: dict[str, tuple[int, ...]], read: Callable[[str], Tensor], moments: tuple[str, ...]
) -> list[Fragment]:
    """Weights first, then the moments as a hole in the file, which reads as zeros."""
    fragments: list[Fragment] = []
    offset = 0

    def add(name: str, kind: Any, values: np.ndarray) -> None:
        nonlocal offset
        fragments.append(Fragment(name, kind, 0, 0, values.size, path.name, offset, checksum(values)))
        offset += values.nbytes

    with path.open("wb") as file:
        for name in shapes:
            values = read(name).float().contiguous().numpy().reshape(-1)
            file.write(values.data)
            add(name, WEIGHT, values)
        for kind in moments:
            for name, shape in shapes.items():
                add(name, kind, np.zeros(int(np.prod(shape)), dtype=np.float32))
        file.truncate(offset)
    return fragments
