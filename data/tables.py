"""Tables in Parquet and Arrow files.

In: a seekable stream and the name of the column that holds the document. Out: the column's values. Always: what
arrives is checked before it becomes Python's, so that a spoiled file is an error and not the end of the process; a
table without rows has no documents.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data.damage import DamagedFile, shown
from data.kinds import Kind
from data.rows import place_of

BATCH_ROWS = 256
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
STREAM_MARK = b"\xff\xff\xff\xff"
"""how an Arrow stream begins, which is what `datasets` writes; an Arrow file begins with its name"""


def column_of(stream: BinaryIO, kind: Kind, file: str, text_field: str, flag: str) -> Iterator[Any]:
    """The values of the column ``text_field``, None where there is none.

    Raises:
        DamagedFile: no such column, two of them, or one that does not hold text.
    """
    if kind == "parquet":
        table = pq.ParquetFile(stream, page_checksum_verification=True)
        schema = table.schema_arrow
        _text_column(schema, file, text_field, flag)
        for batch in table.iter_batches(BATCH_ROWS, columns=[text_field], use_threads=False):
            yield from _values(batch.column(text_field))  # a name with a dot brings what is nested under it, too
        return
    head = stream.read(len(STREAM_MARK))
    stream.seek(0)
    if head == STREAM_MARK:
        reader = pa.ipc.open_stream(stream)
        place = _text_column(reader.schema, file, text_field, flag)
        for batch in reader:
            yield from _values(batch.column(place))
        _check_end(stream, file)
        return
    opened = pa.ipc.open_file(stream)
    place = _text_column(opened.schema, file, text_field, flag)
    for number in range(opened.num_record_batches):
        yield from _values(opened.get_batch(number).column(place))


def _check_end(stream: BinaryIO, file: str) -> None:
    """A stream that was cut between two batches looks whole but for the mark of its end, which all writers set."""
    stream.seek(max(0, stream.tell() - len(STREAM_END)))
    if stream.read(len(STREAM_END)) != STREAM_END:
        raise DamagedFile(
            f"{shown(file)}: damaged: the end of its Arrow stream is missing; it was cut, or is still written"
        )
    if stream.read(1):
        raise DamagedFile(f"{shown(file)}: damaged: something stands behind the end of its Arrow stream")


def _text_column(schema: pa.Schema, file: str, text_field: str, flag: str) -> int:
    place = place_of(text_field, schema.names, file, flag)
    kind = schema.field(place).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(value) for test in tests):
        raise DamagedFile(f"{shown(file)}: column {text_field!r} holds {str(kind)[:100]}, not text")
    return place


def _values(column: pa.Array) -> list[Any]:
    column.validate(full=True)
    values: list[Any] = column.to_pylist()
    return values
