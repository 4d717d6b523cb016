"""Rows in every accepted kind of file: equal documents, and what is not one is counted or refused by name."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from data import rows, unpack
from data.damage import DamagedFile
from tests.data.reading import read_all

TEXTS = ['plain, with "quotes"', "two\nlines", "tab\tinside", "naïve €", " ", "= 5"]
TABLE = pa.table({"n": list(range(len(TEXTS))), "text": TEXTS})


def json_lines() -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def separated(by: str) -> bytes:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    return "".join(f"{line}\n" for line in [f"n{by}text", *(f"1{by}{text}" for text in quoted)]).encode()


def arrow(new_writer: Callable[..., pa.RecordBatchStreamWriter]) -> bytes:
    sink = pa.BufferOutputStream()
    with new_writer(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return bytes(sink.getvalue())


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    return bytes(sink.getvalue())


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


KINDS: dict[str, bytes] = {
    "a.jsonl": json_lines(),
    "a.ndjson": json_lines(),
    "A.JSONL": json_lines(),
    "lines.json": json_lines(),
    "array.json": json.dumps([{"text": text} for text in TEXTS], indent=1).encode(),
    "crlf.jsonl": json_lines().replace(b"\n", b"\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + json_lines(),
    "a.csv": separated(","),
    "mark.csv": b"\xef\xbb\xbf" + separated(","),
    "a.tsv": separated("\t"),
    "a.parquet": parquet(),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "file.arrow": arrow(pa.ipc.new_file),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_same_documents_packed_or_not(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(KINDS[name])
    assert read_all(file) == (TEXTS, {})
    for suffix, pack in PACKED.items():
        packed = tmp_path / f"{name}.{suffix}"
        packed.write_bytes(pack(KINDS[name]))
        assert read_all(packed) == (TEXTS, {}), suffix


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_file_that_was_cut_or_spoiled_is_one_line_with_its_name(suffix: str, tmp_path: Path) -> None:
    whole = PACKED[suffix](b'{"text": "a line that is said again and again"}\n' * 2000 + bytes(range(32, 127)) + b"\n")
    for content in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1], b"no such format at all" * 50):
        file = tmp_path / f"a.jsonl.{suffix}"
        file.write_bytes(content)
        with pytest.raises(DamagedFile, match=rf"a\.jsonl\.{suffix}: ") as caught:
            read_all(file)
        assert "\n" not in str(caught.value)
        assert read_all(file, on_damage="skip") == ([], {f"damaged, skipped: {file}": 1})


def test_of_a_damaged_file_not_even_the_whole_beginning_is_used(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(20000)))
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n')
    assert read_all(tmp_path, on_damage="skip")[0] == ["whole"]


NOT_READABLE: dict[str, tuple[str, bytes, str]] = {
    "picture": ("a.jsonl", b"\x89PNG\r\n\x1a\n\0\0", "a PNG picture, not jsonl"),
    "binary": ("a.csv", b"text\n\0\1\2\n", "binary content"),
    "wide": ("a.json", '[{"text": "a"}]'.encode("utf-16"), "UTF-16"),
    "not json": ("a.json", b"hello", "not JSON"),
    "cut array": ("a.json", b'[{"text": "a"}, {"te', "not JSON"),
    "deep": ("a.json", b"[" * 100_000, "not JSON"),
    "long number": ("a.json", b'[{"text": ' + b"9" * 5000 + b"}]", "not JSON"),
    "two columns": ("a.csv", b"text,text\na,b\n", "2 columns named 'text'"),
    "no column": ("a.tsv", b"one\ttwo\na\tb\n", "--text-field text: no such column; there are one, two"),
    "open quote": ("a.csv", b'text\n"one\ntwo\n', "a quote that is not closed"),
}


@pytest.mark.parametrize("case", NOT_READABLE)
def test_a_file_that_is_not_what_its_name_says_is_refused(case: str, tmp_path: Path) -> None:
    name, content, message = NOT_READABLE[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedFile) as caught:
        read_all(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_rows_without_a_document_are_counted(tmp_path: Path) -> None:
    lines = ['{"text": "a", "text": "b"}', '{"text": "c", "n": {"x": 1, "x": 2}}', "[" * 100_000, '{"text": ["d"]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert read_all(tmp_path / "a.jsonl") == (
        ["c"],
        {"'text' twice in one row": 1, "malformed JSON": 1, "no text in 'text'": 1},
    )
    (tmp_path / "b.csv").write_text('n,text\n1,"a"\n\n2\n3,x,y\n4,"a"b"\n5,e\n')
    assert read_all(tmp_path / "b.csv") == (["a", "e"], {"no text in 'text'": 1, "malformed csv row": 2})
    (tmp_path / "c.json").write_text('{"text": "one row", "more": []}')
    assert read_all(tmp_path / "c.json")[0] == ["one row"]
    (tmp_path / "d.csv").write_text("text\n")
    with pytest.raises(InputError, match="no such file"):
        read_all(tmp_path / "none.csv")
    assert read_all(tmp_path / "d.csv") == ([], {})


def test_rows_of_another_encoding_are_counted(tmp_path: Path) -> None:
    lines = ['{"text": "日本語のテキスト"}'.encode("shift-jis"), '{"text": "naïve"}'.encode("latin-1")]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    kept = "kept, with bytes that are no UTF-8 (U+FFFD)"
    assert read_all(tmp_path / "a.jsonl") == (["na\ufffdve"], {"rows that are not UTF-8 text": 1, kept: 1})
    (tmp_path / "b.csv").write_bytes("text\n日本語のテキスト\nhello\n".encode("shift-jis"))
    assert read_all(tmp_path / "b.csv") == (["hello"], {"rows that are not UTF-8 text": 1})
    hole = b"text\n" + b"a row\n" * 2000 + b"torn\0\0\0\nend\n"  # as a crash of the machine leaves it
    (tmp_path / "c.csv").write_bytes(hole)
    assert read_all(tmp_path / "c.csv") == (["a row"] * 2000 + ["end"], {"malformed csv row": 1})


def test_names_of_columns_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n, text\n1, a\n")
    with pytest.raises(DamagedFile, match="no such column; there are n, ' text' in"):
        read_all(tmp_path / "a.csv")


def test_what_is_too_long_for_one_document_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "LARGEST", 1 << 20)
    monkeypatch.setattr(rows, "LARGEST", 1 << 20)
    long = "x" * (1 << 20)
    for name in ("a.txt", "a.jsonl", "a.json", "a.csv"):
        (tmp_path / name).write_text('text\n"' + long + long)
        with pytest.raises(DamagedFile, match=rf"{name}: "):
            read_all(tmp_path / name)
