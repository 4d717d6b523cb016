"""Does a manifest describe a whole checkpoint? Asked before any of its files is opened.

In: a checkpoint's folder. Out: its Manifest, or an InputError. Always: every element of every parameter and of its
moments stands in exactly one fragment, and every byte of the files belongs to exactly one. Which moments a parameter
has, the optimizer of the run that wrote it declares.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from common.errors import InputError, named
from common.files import read_json, sha256_of_json
from common.ranges import MOST_STEPS
from common.typed import shown
from pretrain.checkpoint.layout import (
    FORMAT,
    MANIFEST,
    WEIGHT,
    Fragment,
    Manifest,
    TensorLayout,
    is_step_name,
    step_of,
)
from pretrain.optimizers.default import DEFAULT_OPTIMIZER
from pretrain.optimizers.registry import optimizer_named

LARGEST_TENSOR = 2**50
"""elements; more than any parameter has, and positions in a file of them still fit into 64 bits"""
_FIELDS = {
    "step": int,
    "config": dict,
    "state": dict,
    "topology": str,
    "tensors": dict,
    "fragments": list,
    "files": dict,
}


def read_manifest(folder: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        InputError: missing, damaged, or of another format.
    """
    path = folder / MANIFEST
    document = read_json(path, "checkpoint manifest")
    body = document.get("body") if isinstance(document, dict) else None
    if not isinstance(body, dict) or document.get("digest") != sha256_of_json(body):
        raise InputError(f"{path}: damaged: its digest does not match its content")
    if body.pop("format", None) != FORMAT:
        raise InputError(f"{path}: written in another checkpoint format; this version reads format {FORMAT}")
    return parse_body(body, path)


def parse_body(body: dict[str, Any], path: Path) -> Manifest:
    """The manifest that ``body``, read from ``path``, is.

    Raises:
        InputError: names the first entry that is missing, of another type, or contradicts the others.
    """
    for name, kind in _FIELDS.items():
        if type(body.get(name)) is not kind:
            raise _damaged(path, f"'{name}' is {shown(body.get(name))}, expected a {kind.__name__}")
    unknown = body.keys() - _FIELDS.keys()
    if unknown:
        raise _damaged(path, f"unknown entries {', '.join(sorted(unknown))[:200]}")
    step = body["step"]
    if not 0 <= step <= MOST_STEPS or (is_step_name(path.parent.name) and step != step_of(path.parent)):
        raise _damaged(path, f"says step {step}, in the folder {path.parent.name}")
    tensors = {name: _tensor(name, values, path) for name, values in body["tensors"].items()}
    files = {name: _file(name, size, path) for name, size in body["files"].items()}
    moments = _moments(body["config"], path)
    fragments = tuple(_fragment(values, tensors, files, path) for values in body["fragments"])
    _check_complete(tensors, fragments, moments, path)
    _check_files_filled(files, fragments, path)
    return Manifest(step, body["config"], body["state"], body["topology"], tensors, fragments, files)


def _tensor(name: str, values: Any, path: Path) -> TensorLayout:
    keys = {"shape", "shard_dim", "tensor_size"}
    if not isinstance(values, dict) or values.keys() != keys or not isinstance(values["shape"], list):
        raise _damaged(path, f"tensor {name}: expected {', '.join(sorted(keys))}")
    shape, dim, size = values["shape"], values["shard_dim"], values["tensor_size"]
    if not _whole_numbers(shape, 1) or prod(shape) > LARGEST_TENSOR:
        raise _damaged(path, f"tensor {name}: no possible shape")
    if not _whole_numbers([size], 1) or (dim is not None and not (_whole_numbers([dim], 0) and dim < len(shape))):
        raise _damaged(path, f"tensor {name}: no possible split: dimension {shown(dim)} over {shown(size)} ranks")
    if dim is not None and shape[dim] % size:
        raise _damaged(path, f"tensor {name}: {shape[dim]} elements cannot be split over {size} ranks")
    return TensorLayout(tuple(shape), dim, size)


def _file(name: str, size: Any, path: Path) -> int:
    if re.fullmatch(r"rank_\d{5,}\.bin", name) is None or not _whole_numbers([size], 0):
        raise _damaged(path, f"file {shown(name)} of {shown(size)} bytes: expected rank_00000.bin and the like")
    return int(size)


def _fragment(values: Any, tensors: dict[str, TensorLayout], files: dict[str, int], path: Path) -> Fragment:
    if not isinstance(values, list) or len(values) != 8:
        raise _damaged(path, "a fragment is not a list of 8 entries")
    name, kind, rank, start, numel, file, offset, digest = values
    if not all(isinstance(text, str) for text in (name, kind, file, digest)):
        raise _damaged(path, "a fragment's name, kind, file and checksum must be texts")
    if name not in tensors or file not in files:
        raise _damaged(path, f"a fragment of {shown(kind)} of {shown(name)} in {shown(file)}: not one that there is")
    if not _whole_numbers([rank, start, offset], 0) or not _whole_numbers([numel], 1):
        raise _damaged(path, f"a fragment of {name}: its place must be whole numbers")
    fragment = Fragment(name, kind, rank, start, numel, file, offset, digest)
    layout = tensors[name]
    if rank >= layout.shards or fragment.stop > prod(layout.shard_shape) or offset + fragment.bytes > files[file]:
        raise _damaged(path, f"a fragment of {name} lies outside its parameter or its file")
    return fragment


def _moments(config: dict[str, Any], path: Path) -> frozenset[tuple[str, ...]]:
    """What a parameter's moments can be under the optimizer that ``config`` names; older ones name none."""
    section = config.get("optimizer", {})
    name = section.get("kind", DEFAULT_OPTIMIZER) if isinstance(section, dict) else None
    if not isinstance(name, str):
        raise _damaged(path, f"'config.optimizer' is {shown(section)}")
    with named(str(path)):
        return optimizer_named(name).moments()


def _check_complete(
    tensors: dict[str, TensorLayout],
    fragments: Iterable[Fragment],
    moments: frozenset[tuple[str, ...]],
    path: Path,
) -> None:
    ranges: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
    kinds: dict[str, set[str]] = defaultdict(set)
    for fragment in fragments:
        ranges[fragment.name, fragment.kind, fragment.tensor_rank].append((fragment.start, fragment.stop))
        kinds[fragment.name].add(fragment.kind)
    for name, layout in tensors.items():
        numel = prod(layout.shard_shape)
        rule = max(sorted(moments), key=lambda rule, found=kinds[name]: len(found & set(rule)))  # type: ignore[misc]
        surplus = kinds[name] - {WEIGHT, *rule}
        if surplus:
            raise _damaged(path, f"a fragment of {shown(min(surplus))} of {name}: not one that there is")
        for kind in (WEIGHT, *rule):
            for rank in range(layout.shards):
                bounds = [(0, 0), *sorted(ranges[name, kind, rank]), (numel, numel)]
                if any(before[1] != after[0] for before, after in pairwise(bounds)):
                    raise _damaged(path, f"{kind} of {name} is not whole: elements are missing or stand there twice")


def _check_files_filled(files: dict[str, int], fragments: Iterable[Fragment], path: Path) -> None:
    """Every byte of every file is some fragment's, and of one only."""
    ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for fragment in fragments:
        ranges[fragment.file].append((fragment.offset, fragment.offset + fragment.bytes))
    for file, size in files.items():
        bounds = [(0, 0), *sorted(ranges[file]), (size, size)]
        if any(before[1] != after[0] for before, after in pairwise(bounds)):
            raise _damaged(path, f"{file} has bytes of no fragment, or of two")


def _whole_numbers(values: Iterable[Any], low: int) -> bool:
    return all(type(value) is int and low <= value <= LARGEST_TENSOR for value in values)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: damaged: {what}")
