"""Raw text from files, folders, the running Python's standard library, or the Hugging Face hub.

In: what the user names as input. Out: units of work, each one file or a group of small ones, and the documents
of a unit. Always: the units do not depend on the order in which files were named; a line that is not a
document is counted, never dropped in silence; read through Hugging Face `datasets`.
"""

import glob
import json
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError

UnitKind = Literal["text", "jsonl", "parquet", "hub"]
STDLIB = "stdlib"
GROUP_BYTES = 8 << 20
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
REPLACEMENT = "�"


@dataclass(frozen=True)
class Unit:
    """What one worker reads in one go."""

    kind: UnitKind
    files: tuple[str, ...]
    """paths or URLs; for the hub: repository, configuration, split"""
    identity: tuple[str, ...]
    """changes when a file changes: sizes and times of modification"""
    size: int
    """bytes, for the progress; 0: not known"""
    part: tuple[int, int] = (0, 1)
    """which of how many parts of a hub dataset"""


def find_units(inputs: list[str]) -> list[Unit]:
    """The units behind ``inputs``: `stdlib`, files, folders, patterns, URLs or hub names.

    Raises:
        InputError: nothing there, or a kind of file that is not known.
    """
    texts: list[str] = []
    units: list[Unit] = []
    for entry in inputs:
        for file in _files_of(entry):
            kind = _kind_of(file)
            if kind == "hub":
                units += _hub_units(file)
            elif kind == "text" and "://" not in file:
                texts.append(file)
            else:
                units.append(_unit(kind, [file]))
    units += [_unit("text", group) for group in _groups(sorted(set(texts)))]
    units = sorted(set(units), key=lambda unit: (unit.files, unit.part))
    if not units:
        raise InputError(f"--input {' '.join(inputs)}: no text files there")
    return units


def read_documents(unit: Unit, text_field: str, problems: Counter[str]) -> Iterator[str]:
    """The documents of ``unit``; what is not one is counted in ``problems`` by its kind.

    A text file is one document; a line of JSON, or a row, has its document in ``text_field``.
    """
    if unit.kind == "jsonl":
        lines = _column(_load("text", unit.files, sample_by="line", encoding_errors="replace"), "text")
        values = _fields_of_lines(lines, text_field, problems)
    elif unit.kind == "text":
        values = _column(_load("text", unit.files, sample_by="document", encoding_errors="replace"), "text")
    else:
        values = _column(_load("parquet", unit.files) if unit.kind == "parquet" else _load_hub(unit), text_field)
    for text in values:
        if isinstance(text, str):
            yield _clean(text, problems)
        else:
            problems[f"no text in '{text_field}'"] += 1


def _fields_of_lines(lines: Iterable[str], text_field: str, problems: Counter[str]) -> Iterator[Any]:
    for line in lines:
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            problems["malformed JSON"] += 1
            continue
        if line.strip():
            yield row.get(text_field) if isinstance(row, dict) else None


def _clean(text: str, problems: Counter[str]) -> str:
    if not text.isascii():
        text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        if REPLACEMENT in text:
            problems["kept, with bytes that are no UTF-8 (U+FFFD)"] += 1
    return text


def _files_of(entry: str) -> list[str]:
    if entry == STDLIB:
        return _standard_library()
    if "://" in entry:
        return [entry]
    path = Path(entry)
    if path.is_dir():
        return [str(file) for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    if path.is_file():
        return [entry]
    matches = [file for file in glob.glob(entry, recursive=True) if os.path.isfile(file)]  # noqa: PTH113, PTH207
    if matches or _looks_like_hub(entry):
        return matches or [entry]
    raise InputError(f"--input {entry}: no such file or folder, and not a hub name (OWNER/NAME)")


def _standard_library() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    others = {"site-packages", "dist-packages", "__pycache__"}
    return [str(file) for file in folder.rglob("*.py") if not others.intersection(file.parts)]


def _looks_like_hub(entry: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}", entry) is not None and not Path(entry).parent.exists()


def _kind_of(file: str) -> UnitKind:
    if "://" not in file and not Path(file).exists():
        return "hub"
    name = file.partition("?")[0]
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    suffix = Path(name).suffix.lower()
    if suffix in JSON_SUFFIXES:
        return "jsonl"
    return "parquet" if suffix == ".parquet" else "text"


def _unit(kind: UnitKind, files: list[str]) -> Unit:
    identity, size = [], 0
    for file in files:
        if "://" in file:
            identity.append(file)
            continue
        status = Path(file).stat()
        identity.append(f"{Path(file).resolve()} {status.st_size} {status.st_mtime_ns}")
        size += status.st_size
    return Unit(kind, tuple(files), tuple(identity), size)


def _groups(files: list[str]) -> Iterator[list[str]]:
    """Small text files together, about ``GROUP_BYTES`` each: opening a unit costs more than reading a small file."""
    group: list[str] = []
    size = 0
    for file in files:
        group.append(file)
        size += Path(file).stat().st_size
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _hub_units(entry: str) -> list[Unit]:
    name, _, rest = entry.partition(":")
    configuration, _, split = rest.partition(":")
    files = (name, configuration, split or "train")
    parts = _load_hub(Unit("hub", files, files, 0)).num_shards
    return [Unit("hub", files, (*files, str(parts)), 0, (part, parts)) for part in range(parts)]


def _load_hub(unit: Unit) -> Any:
    import datasets

    name, configuration, split = unit.files
    try:
        dataset = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
    except Exception as error:
        raise InputError(f"--input {name}: not readable from the Hugging Face hub: {error}") from None
    return dataset.shard(unit.part[1], unit.part[0]) if unit.part[1] > 1 else dataset


def _load(builder: str, files: Iterable[str], **options: Any) -> Any:
    import datasets

    names = [file if "://" in file else glob.escape(str(Path(file).resolve())) for file in files]
    return datasets.load_dataset(builder, data_files=names, split="train", streaming=True, **options)


def _column(dataset: Any, name: str) -> Iterator[Any]:
    """One column's values, taken from the Arrow tables as they come."""
    for table in dataset.with_format("arrow").iter(batch_size=256):
        if name not in table.column_names:
            raise InputError(f"--text_field {name}: no such column; there are {', '.join(table.column_names)}")
        yield from table.column(name).to_pylist()
