"""Raw text from files, folders, the running Python's standard library, or the Hugging Face hub.

In: what the user names as input. Out: units of work, each one file or a group of small ones, and the documents
of a unit. Always: the units do not depend on the order in which files were named; what is not read, and a row that is
not a document, is counted, never dropped in silence. `prepare` and the evaluator read text here and nowhere else.
"""

import io
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.errors import InputError
from common.typed import shortened
from data.damage import DamagedFile, damage_named, shown, unreachable
from data.kinds import ACCEPTED, Kind, kind_of
from data.plain import REPLACEMENT, decode, is_noise
from data.rows import rows_of
from data.tables import column_of
from data.unpack import opened, read_whole
from data.walk import Walk

UnitKind = Kind | Literal["hub"]
OnDamage = Literal["refuse", "skip"]
STDLIB = "stdlib"
GROUP_BYTES = 8 << 20
SKIPPED = "damaged, skipped: "
"""how the count of a skipped file begins; its name follows"""


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


@dataclass(frozen=True)
class Reading:
    """How documents are taken out of files."""

    text_field: str = "text"
    """column or JSON key that holds the document"""
    on_damage: OnDamage = "refuse"
    """a file that cannot be read: an error, or passed over with a count"""
    flag: str = "--text-field"
    """the setting that names the field, for errors"""


def find_units(
    inputs: list[str], passed_over: Counter[str], output: Path | None = None, flag: str = "--input"
) -> list[Unit]:
    """The units behind ``inputs``: `stdlib`, files, folders, patterns, URLs or hub names.

    What lies there and is not read is counted in ``passed_over`` by its reason; ``output`` is not read.

    Raises:
        InputError: nothing there, or a kind of file that is not known.
    """
    walk = Walk(passed_over, output, flag)
    texts: list[str] = []
    units: list[Unit] = []
    for entry in inputs:
        for file in _files_of(entry, walk, flag):
            kind = None if _looks_like_hub(file) else kind_of(file)
            if kind is None:
                units += _hub_units(file, flag)
            elif kind.kind == "text" and "://" not in file:
                texts.append(file)
            else:
                units.append(_unit(kind.kind, [file]))
    units += [_unit("text", group) for group in _groups(sorted(set(texts)))]
    units = sorted(set(units), key=lambda unit: (unit.files, unit.part))
    if not units:
        why = f"passed over: {counts_in_words(passed_over)}" if passed_over else f"what is read: {ACCEPTED}"
        raise InputError(f"{flag} {' '.join(map(shown, inputs))}: no text files there; {why}")
    return units


def read_documents(unit: Unit, reading: Reading, problems: Counter[str]) -> Iterator[str]:
    """The documents of ``unit``; what is not one is counted in ``problems`` by its reason.

    A text file is one document; a line of JSON, or a row, has its document in the text field.

    Raises:
        DamagedFile: a file cannot be read, and is not to be skipped.
        InputError: a store or the hub does not answer.
    """
    if unit.kind == "hub":
        yield from _documents(_hub_values(unit, reading), reading, problems)
        return
    for file in unit.files:
        if reading.on_damage == "skip" and _is_damaged(file, reading):
            problems[f"{SKIPPED}{shown(file)}"] += 1
        else:
            yield from _documents(_values(file, reading, problems), reading, problems)


def _is_damaged(file: str, reading: Reading) -> bool:
    """Reads ``file`` to its end: of a damaged file not even the beginning is used."""
    try:
        for _ in _values(file, reading, Counter()):
            pass
    except DamagedFile:
        return True
    return False


def _values(file: str, reading: Reading, problems: Counter[str]) -> Iterator[Any]:
    """What stands in the text field, of any type, row after row."""
    kind = kind_of(file)
    assert kind is not None, f"{file} was not found by the walk"
    with damage_named(file), ExitStack() as stack:
        stream = stack.enter_context(opened(file, kind.compression))
        if kind.kind == "text":
            yield from _plain_text(read_whole(stream, file, "text"), problems)
        elif kind.kind in ("parquet", "arrow"):
            seekable = stream if stream.seekable() and not kind.compression else None
            table = seekable or io.BytesIO(read_whole(stream, file, f"packed {kind.kind}"))
            yield from column_of(table, kind.kind, file, reading.text_field, reading.flag)
        else:
            yield from rows_of(stream, kind.kind, file, reading.text_field, problems, reading.flag)


def _plain_text(content: bytes, problems: Counter[str]) -> Iterator[str]:
    text = decode(content)
    if text is None:
        problems["files that are not UTF-8 text, though their names say so"] += 1
    else:
        yield text


def _documents(values: Iterable[Any], reading: Reading, problems: Counter[str]) -> Iterator[str]:
    for value in values:
        if not isinstance(value, str):
            problems[f"no text in '{reading.text_field}'"] += 1
        elif (text := _clean(value, problems)) is not None:
            yield text


def _clean(text: str, problems: Counter[str]) -> str | None:
    """``text`` as it can be written in UTF-8; None: it is not text."""
    if text.isascii():
        return text
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if is_noise(text):
        problems["rows that are not UTF-8 text"] += 1
        return None
    if REPLACEMENT in text:
        problems["kept, with bytes that are no UTF-8 (U+FFFD)"] += 1
    return text


def _files_of(entry: str, walk: Walk, flag: str) -> list[str]:
    if entry == STDLIB:
        return _standard_library()
    if "://" in entry:
        if kind_of(entry) is None:
            raise InputError(f"{flag} {shortened(shown(entry))}: not a kind of file that is read; those are {ACCEPTED}")
        return [entry]
    files = walk.files_of(entry)
    if files is not None:
        return files
    if _looks_like_hub(entry):
        return [entry]
    raise InputError(f"{flag} {shortened(entry)}: no such file or folder, and not a hub name (OWNER/NAME)")


def _standard_library() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    others = {"site-packages", "dist-packages", "__pycache__"}
    return [str(file) for file in folder.rglob("*.py") if not others.intersection(file.parts)]


def _looks_like_hub(entry: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}", entry) is not None and not Path(entry).parent.exists()


def counts_in_words(counts: Counter[str]) -> str:
    """``counts`` for the middle of a line; of many kinds the first."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())[:20])


def _unit(kind: Kind, files: list[str]) -> Unit:
    identity, size = [], 0
    for file in files:
        if "://" in file:
            identity.append(file)
            continue
        status = _status(file)
        identity.append(f"{Path(file).resolve()} {status.st_size} {status.st_mtime_ns}")
        size += status.st_size
    return Unit(kind, tuple(files), tuple(identity), size)


def _groups(files: list[str]) -> Iterator[list[str]]:
    """Small text files together, about ``GROUP_BYTES`` each: opening a unit costs more than reading a small file."""
    group: list[str] = []
    size = 0
    for file in files:
        group.append(file)
        size += _status(file).st_size
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _status(file: str) -> os.stat_result:
    try:
        return Path(file).stat()
    except FileNotFoundError:
        raise InputError(f"{shown(file)}: was found, and has gone since; keep it where it is, and try again") from None


def _hub_units(entry: str, flag: str) -> list[Unit]:
    name, _, rest = entry.partition(":")
    configuration, _, split = rest.partition(":")
    files = (name, configuration, split or "train")
    parts = _load_hub(Unit("hub", files, files, 0), flag).num_shards
    return [Unit("hub", files, (*files, str(parts)), 0, (part, parts)) for part in range(parts)]


def _load_hub(unit: Unit, flag: str) -> Any:
    name, configuration, split = unit.files
    try:
        import datasets

        dataset = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
    except Exception as error:
        raise InputError(f"{flag} {name}: not readable from the Hugging Face hub: {error}") from None
    return dataset.shard(unit.part[1], unit.part[0]) if unit.part[1] > 1 else dataset


def _hub_values(unit: Unit, reading: Reading) -> Iterator[Any]:
    """One column's values, taken from the Arrow tables as they come."""
    name = unit.files[0]
    try:
        for table in _load_hub(unit, "--input").with_format("arrow").iter(batch_size=256):
            if reading.text_field not in table.column_names:
                columns = ", ".join(table.column_names)
                raise InputError(f"{reading.flag} {reading.text_field}: no such column; there are {columns} in {name}")
            yield from table.column(reading.text_field).to_pylist()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of any of the hub's libraries
        raise unreachable(f"hf://{name}", error) from None
