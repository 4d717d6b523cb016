"""Parquet and Arrow: spoiled bytes, odd schemas and empty tables end in a count or one line, never the process."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.damage import DamagedFile
from tests.data.reading import read_all


def write_arrow(table: pa.Table, file: Path) -> None:
    with pa.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table)


WRITERS = {"parquet": pq.write_table, "arrow": write_arrow}


@pytest.mark.parametrize("kind", WRITERS)
def test_tables_of_every_shape(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    WRITERS[kind](pa.table({"text": pa.array([], pa.string())}), file)
    assert read_all(file) == ([], {})
    WRITERS[kind](pa.table({"text": pa.array(["a", None, ""], pa.large_string())}), file)
    assert read_all(file) == (["a", ""], {"no text in 'text'": 1})
    WRITERS[kind](pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), file)
    assert read_all(file)[0] == ["a", "b", "a"]
    WRITERS[kind](pa.table({"text": pa.nulls(3)}), file)
    assert read_all(file) == ([], {"no text in 'text'": 3})
    WRITERS[kind](pa.table({"x": [{"text": "inner"}], "text": ["outer"]}), file)
    assert read_all(file)[0] == ["outer"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_dot_in_a_name_is_no_way_into_another_column(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    WRITERS[kind](pa.table({"a": [{"text": "inner"}] * 3, "a.text": ["outer"] * 3}), file)
    assert read_all(file, field="a.text") == (["outer"] * 3, {})


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"content": ["a"], "n": [1]}), "--text-field text: no such column; there are content, n"),
        (pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), "2 columns named 'text'"),
        (pa.table({"text": [1, 2]}), "column 'text' holds int64, not text"),
        (pa.table({"text": [["a"], ["b"]]}), "column 'text' holds list<"),
        (pa.table({"text": [b"a"]}), "column 'text' holds binary, not text"),
    ],
)
def test_odd_schemas_are_named(kind: str, table: pa.Table, message: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    WRITERS[kind](table, file)
    with pytest.raises(DamagedFile) as caught:
        read_all(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert read_all(file, on_damage="skip") == ([], {f"damaged, skipped: {file}": 1})


@pytest.mark.parametrize("kind", WRITERS)
def test_flipped_and_lost_bytes_are_named_or_harmless(kind: str, tmp_path: Path) -> None:
    texts = [f"document {number} " * 20 for number in range(300)]
    file = tmp_path / f"a.{kind}"
    WRITERS[kind](pa.table({"text": texts}), file)
    whole, dice = file.read_bytes(), random.Random(7)
    refused = 0
    for _ in range(150):
        spoiled = bytearray(whole)
        for _ in range(dice.choice((1, 3, 40))):
            spoiled[dice.randrange(len(spoiled))] ^= 1 << dice.randrange(8)
        file.write_bytes(spoiled[: dice.choice((len(spoiled), dice.randrange(len(spoiled))))])
        try:
            found, _ = read_all(file)
            assert all(isinstance(text, str) for text in found)
        except DamagedFile as error:
            refused += 1
            assert str(error).startswith(f"{file}: ") or "no such column" in str(error)
    assert refused > 30


def test_an_arrow_stream_without_its_end_is_cut(tmp_path: Path) -> None:
    """Between two batches a cut leaves whole batches."""
    sink = pa.BufferOutputStream()
    table = pa.table({"text": [f"document {number}" for number in range(90)]})
    ends = []
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=30):
            writer.write_batch(batch)
            ends.append(sink.tell())
    whole, file = bytes(sink.getvalue()), tmp_path / "a.arrow"
    for end in (*ends, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(DamagedFile, match=r"a\.arrow: damaged"):
            read_all(file)
    for tail in (b"x", whole):
        file.write_bytes(whole + tail)
        with pytest.raises(DamagedFile, match="behind the end of its Arrow stream"):
            read_all(file)
    file.write_bytes(whole)
    assert len(read_all(file)[0]) == 90


def test_a_spoiled_length_does_not_ask_for_all_memory(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"text": ["a document"] * 50})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    whole = bytes(sink.getvalue())
    file = tmp_path / "a.arrow"
    refused = 0
    for at in range(len(whole)):  # one of them is the length of what is packed
        file.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        try:
            read_all(file)
        except DamagedFile:
            refused += 1
    assert refused > 50
