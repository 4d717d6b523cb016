"""Rows written as text: JSON lines, a JSON array, comma- or tab-separated values.

In: a stream of bytes and the name of the field that holds the document. Out: each row's value of that field, of any
type. Always: a row that cannot be read is counted; a file that cannot be, is an error; of two values of one name none
is taken for the right one.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

from data.damage import DamagedFile, shown
from data.kinds import Kind
from data.plain import BYTE_ORDER_MARK, other_content
from data.unpack import LARGEST, read_whole

HEAD_BYTES = 4096


def rows_of(
    stream: io.BufferedReader, kind: Kind, file: str, text_field: str, problems: Counter[str], flag: str
) -> Iterator[Any]:
    """The values of ``text_field``; ``flag`` is the setting that names the field.

    Raises:
        DamagedFile: not a file of this kind, or without the column.
    """
    what = other_content(stream.peek(HEAD_BYTES)[:HEAD_BYTES])
    if what is not None:
        raise DamagedFile(f"{shown(file)}: {what}, not {kind}, though its name says so")
    if kind == "jsonl":
        return _of_lines(stream, file, text_field, problems)
    if kind == "json":
        return _of_json(stream, file, text_field, problems)
    return _of_table(stream, kind, file, text_field, problems, flag)


def _of_lines(stream: BinaryIO, file: str, text_field: str, problems: Counter[str]) -> Iterator[Any]:
    decoder = _Decoder(text_field)
    first = True
    while line := stream.readline(LARGEST + 1):
        if len(line) > LARGEST:
            raise DamagedFile(f"{shown(file)}: a line of more than {LARGEST >> 20} MiB")
        if first:
            line, first = line.removeprefix(BYTE_ORDER_MARK), False
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except (ValueError, RecursionError):
            problems["malformed JSON"] += 1
            continue
        yield from decoder.values([row], problems)


def _of_json(stream: BinaryIO, file: str, text_field: str, problems: Counter[str]) -> Iterator[Any]:
    """An array of rows, a single row, or, as many files of this name are, JSON lines."""
    content = read_whole(stream, file, "JSON").removeprefix(BYTE_ORDER_MARK)
    decoder = _Decoder(text_field)
    try:
        found = decoder.decode(content) if content.strip() else []
    except (ValueError, RecursionError) as error:
        first = content.lstrip().partition(b"\n")[0]
        if not _is_row(decoder, first):
            raise DamagedFile(f"{shown(file)}: damaged, or not JSON: {error}") from None
        yield from _of_lines(io.BytesIO(content), file, text_field, problems)
        return
    yield from decoder.values(found if isinstance(found, list) else [found], problems)


def _is_row(decoder: "_Decoder", line: bytes) -> bool:
    try:
        return isinstance(decoder.decode(line), dict)
    except (ValueError, RecursionError):
        return False


class _Decoder:
    """Reads JSON, and marks the rows that have the field twice."""

    TWICE = object()

    def __init__(self, text_field: str) -> None:
        self._field = text_field
        self._decoder = json.JSONDecoder(object_pairs_hook=self._row)

    def decode(self, content: bytes) -> Any:
        """The value written in ``content``."""
        return self._decoder.decode(content.decode("utf-8", "replace"))

    def values(self, rows: list[Any], problems: Counter[str]) -> Iterator[Any]:
        """The field of each row, None where it has none."""
        for row in rows:
            value = row.get(self._field) if isinstance(row, dict) else None
            if value is self.TWICE:
                problems[f"'{self._field}' twice in one row"] += 1
            else:
                yield value

    def _row(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs) and sum(name == self._field for name, _ in pairs) > 1:
            row[self._field] = self.TWICE
        return row


def _of_table(
    stream: BinaryIO, kind: Kind, file: str, text_field: str, problems: Counter[str], flag: str
) -> Iterator[Any]:
    csv.field_size_limit(LARGEST)
    text = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    rows = csv.reader(text, delimiter="\t" if kind == "tsv" else ",", strict=True)
    header = next(rows, None)
    if header is None:
        return
    place = place_of(text_field, header, file, flag)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error) or "limit" in str(error):
                raise DamagedFile(f"{shown(file)}: line {rows.line_num}: a quote that is not closed") from None
            problems[f"malformed {kind} row"] += 1
            continue
        if len(row) > len(header) or (place < len(row) and "\0" in row[place]):
            problems[f"malformed {kind} row"] += 1
        elif row:
            yield row[place] if place < len(row) else None


def place_of(text_field: str, columns: list[str], file: str, flag: str) -> int:
    """Which of ``columns`` is ``text_field``.

    Raises:
        DamagedFile: none, or more than one.
    """
    count = columns.count(text_field)
    if count == 1:
        return columns.index(text_field)
    if count:
        raise DamagedFile(f"{shown(file)}: {count} columns named {text_field!r}: which one is meant is not known")
    names = [name if name.isidentifier() else repr(name) for name in columns[:20]]
    there = ", ".join(names) + (", ..." if len(columns) > 20 else "")
    raise DamagedFile(f"{flag} {text_field}: no such column; there are {there[:300] or 'none'} in {shown(file)}")
