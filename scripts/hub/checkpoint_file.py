"""A checkpoint made of whole parameters, for training to branch from or to go on from.

In: a RunConfig, parameters one by one, and their moments, if there are any. Out: `step_00000000/`, or a later step.
Always: whole or absent; no more than one parameter is in memory; moments that are all zero take no disk space.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

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


class Moments(Protocol):
    """What has the moments of parameters."""

    def moments(self, name: str) -> list[str]:
        """Of a parameter, their names."""

    def read(self, name: str, kind: str) -> Tensor:
        """One of them, whole."""


def write_checkpoint(
    checkpoints: Path,
    config: RunConfig,
    shapes: dict[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    state: dict[str, Any],
    step: int = 0,
    topology: str = "imported",
    moments: Moments | None = None,
) -> Path:
    """Writes the parameters called ``shapes``, whose values ``read`` gives; returns the folder.

    Args:
        moments: those of the parameters; all zero unless said otherwise.
    """
    final = step_folder(checkpoints, step)
    with whole_folder(final) as temporary:
        fragments = _Values(temporary / DATA_FILE).write(
            shapes, read, moments, min(optimizer_kind(config.optimizer).moments())
        )
        layouts = {name: TensorLayout(shape, None, 1) for name, shape in shapes.items()}
        files = {DATA_FILE: fragments[-1].offset + fragments[-1].bytes}
        manifest = Manifest(step, dataclasses.asdict(config), state, topology, layouts, tuple(fragments), files)
        write_manifest(temporary, manifest)
        flush_folder(temporary)
    return final


class _Values:
    """The one file of the checkpoint: weights first, then moments; zeros as a hole in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fragments: list[Fragment] = []
        self._offset = 0

    def write(
        self,
        shapes: dict[str, tuple[int, ...]],
        read: Callable[[str], Tensor],
        moments: Moments | None,
        zero: tuple[str, ...],
    ) -> list[Fragment]:
        """Writes all; ``zero``: the moments of each parameter where there are none to write."""
        with self._path.open("wb") as file:
            for name in shapes:
                file.write(self._add(name, WEIGHT, _flat(read(name))).data)
            if moments is None:
                for kind in zero:
                    for name, shape in shapes.items():
                        self._add(name, kind, np.zeros(int(np.prod(shape)), dtype=np.float32))
            else:
                for name in shapes:
                    for kind in moments.moments(name):
                        file.write(self._add(name, kind, _flat(moments.read(name, kind))).data)
            file.truncate(self._offset)
        return self._fragments

    def _add(self, name: str, kind: str, values: np.ndarray) -> np.ndarray:
        fragment = Fragment(name, kind, 0, 0, values.size, self._path.name, self._offset, checksum(values))
        self._fragments.append(fragment)
        self._offset += values.nbytes
        return values


def _flat(values: Tensor) -> np.ndarray:
    flat: np.ndarray = values.float().contiguous().numpy().reshape(-1)
    return flat
