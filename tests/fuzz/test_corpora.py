"""Damaged and hostile corpora: documents that are text, all else counted, or one line with the file's name."""

import bz2
import gzip
import io
import json
import lzma
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from data.corpus import OnDamage, Reading, find_units, read_documents
from data.prepare import PrepareConfig, prepare
from tests.fuzz.rules import answer, fuzz

TEXTS = ["one", "two\nlines", 'with "quotes", commas', "naïve € \u2028", "tab\tand \\u0000", "x" * 300, ""]
TABLE = pa.table({"n": list(range(len(TEXTS))), "text": TEXTS, "more": [[1, 2]] * len(TEXTS)})


def arrow(new_writer: Callable[..., Any], compression: str | None) -> bytes:
    sink = io.BytesIO()
    with new_writer(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(TABLE)
    return sink.getvalue()


def parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, **options)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


LINES = "".join(json.dumps({"n": 1, "text": text}) + "\n" for text in TEXTS).encode()


def separated(by: str) -> bytes:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    return "".join(f"{line}\n" for line in [f"n{by}text", *(f"1{by}{text}" for text in quoted)]).encode()


CONTENTS: list[tuple[str, bytes]] = [
    ("jsonl", LINES),
    ("json", LINES),
    ("json", json.dumps([{"text": text, "m": {"a": [1]}} for text in TEXTS]).encode()),
    ("csv", separated(",")),
    ("tsv", separated("\t")),
    ("txt", "plain text, naïve\r\n".encode() * 20),
    ("py", b"def function():\n    return 1\n" * 20),
    ("parquet", parquet()),
    ("parquet", parquet(compression="none", use_dictionary=False, write_page_checksum=True)),
    ("parquet", parquet(compression="zstd", row_group_size=2, data_page_version="2.0")),
    ("arrow", arrow(pa.ipc.new_stream, None)),
    ("arrow", arrow(pa.ipc.new_stream, "zstd")),
    ("arrow", arrow(pa.ipc.new_file, "lz4")),
    ("arrow", arrow(pa.ipc.new_file, None)),
]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
JUNK = st.binary(max_size=12) | st.sampled_from(
    [
        b"\0",
        b"\0" * 64,
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n\n",
        b'"',
        b"{",
        b"[" * 3000,
        b"\x89PNG",
        b"PAR1",
        b"9" * 6000,
    ]
)
CHANGE = st.tuples(st.floats(0, 1), st.integers(0, 9), JUNK)
"""where, how many bytes are lost there, and what comes in their place"""


def changed(content: bytes, changes: list[tuple[float, int, bytes]], kept: float) -> bytes:
    for share, lost, junk in changes:
        at = int(share * len(content))
        content = content[:at] + junk + content[at + lost :]
    return content[: int(kept * len(content))]


def check(folder: Path, on_damage: OnDamage = "refuse") -> tuple[list[str], Counter[str]] | None:
    """Documents and counts that mean something, or one line, which names the place."""
    counts: Counter[str] = Counter()

    def read() -> list[str]:
        reading = Reading("text", on_damage)
        return [text for unit in find_units([str(folder)], counts) for text in read_documents(unit, reading, counts)]

    texts, line = answer(read)
    if texts is None:
        assert line is not None and str(folder.name) in line
        before_reading = ("no text files there", "state.json", "is missing", "flatten_indices")
        assert on_damage == "refuse" or any(words in line for words in before_reading)
        return None
    for text in texts:
        assert type(text) is str
        text.encode("utf-8")
    assert all(count > 0 for count in counts.values())
    return texts, counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@fuzz(quick=500, long=1600)
@given(
    which=st.integers(0, len(CONTENTS) - 1),
    packing=st.sampled_from(["", "", "", *PACK]),
    inside=st.lists(CHANGE, max_size=3),
    outside=st.lists(CHANGE, max_size=2),
    kept=st.just(1.0) | st.floats(0, 1),
    skip=st.booleans(),
)
def test_a_file_with_damage_inside_and_outside(
    which: int,
    packing: str,
    inside: list[tuple[float, int, bytes]],
    outside: list[tuple[float, int, bytes]],
    kept: float,
    skip: bool,
    folder: Path,
) -> None:
    kind, content = CONTENTS[which]
    content = changed(PACK[packing](changed(content, inside, 1.0)), outside if packing else [], kept)
    (emptied(folder) / f"a.{kind}{packing}").write_bytes(content)
    found = check(folder, "skip" if skip else "refuse")
    if not inside and not (outside and packing) and kept == 1.0:
        assert found is not None
        assert len(found[0]) == (1 if kind in ("txt", "py") else len(TEXTS))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "n", ""]), inner, max_size=3),
    max_leaves=5,
)


@fuzz(quick=120, long=600)
@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "n"]), VALUES, max_size=2) | VALUES, max_size=6))
def test_rows_of_any_json(rows: list[Any], folder: Path) -> None:
    """Every row is a document or counted; as lines and as an array the same."""
    lines = "\n".join(json.dumps(row) for row in rows)
    (emptied(folder) / "a.jsonl").write_text(lines)
    (folder / "b.json").write_text(json.dumps(rows))
    apart = []
    for file in ("a.jsonl", "b.json"):
        counts: Counter[str] = Counter()
        units = find_units([str(folder / file)], counts)
        apart.append(([text for unit in units for text in read_documents(unit, Reading(), counts)], counts))
    assert apart[0] == apart[1]
    expected = [row["text"] for row in rows if isinstance(row, dict) and isinstance(row.get("text"), str)]
    assert len(apart[0][0]) == len(expected) - apart[0][1]["rows that are not UTF-8 text"]
    assert apart[0][1]["no text in 'text'"] == len(rows) - len(expected)


PIECES = ["text", "n", ",", "\t", '"', '""', "\n", "\r\n", "\r", " ", "a", "é", "\0", "=", "#", "\\", "\ufeff"]


@fuzz(quick=200, long=600)
@given(kind=st.sampled_from(["csv", "tsv", "json", "jsonl"]), pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_a_table_of_any_text(kind: str, pieces: list[str], folder: Path) -> None:
    (emptied(folder) / f"a.{kind}").write_bytes("".join(["n,text\n", *pieces]).encode())
    check(folder)


NAMES = ["a.txt", "b.jsonl", "c.txt.gz", ".d.txt", "e.png", "F.TXT", "g", "state.json", "dataset_dict.json"]
NAMES += ["manifest.json", "h i.txt", "j\nk.txt", "l*.txt", "é.txt", "tokenizer_info.json", "README", "data.arrow"]
STATES = st.recursive(
    st.none() | st.integers() | st.sampled_from(["data.arrow", "../a.arrow", "", "/dev/zero", "a\0.arrow"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["_data_files", "filename", "_indices_files"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@fuzz(quick=120, long=600)
@given(
    entries=st.lists(st.tuples(st.sampled_from(["", "x/", "x/y/", ".z/"]), st.sampled_from(NAMES)), max_size=6),
    links=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([".", "..", "x", "a.txt", "none"])), max_size=3),
    state=STATES,
    skip=st.booleans(),
)
def test_a_folder_of_any_names_and_links(
    entries: list[tuple[str, str]], links: list[tuple[str, str]], state: Any, skip: bool, folder: Path
) -> None:
    """Each file is read or counted, whatever lies beside it."""
    emptied(folder)
    for place, name in entries:
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(state).encode() if name == "state.json" else b'{"text": "a document"}\n'
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for name, target in links:
        if not (folder / name).exists() and not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    check(folder, "skip" if skip else "refuse")


@fuzz(quick=8, long=100)
@given(
    which=st.lists(st.integers(0, len(CONTENTS) - 1), min_size=1, max_size=4),
    inside=st.lists(CHANGE, max_size=2),
    skip=st.booleans(),
)
def test_a_preparation_of_damaged_files(
    which: list[int], inside: list[tuple[float, int, bytes]], skip: bool, folder: Path, tmp_path: Path
) -> None:
    """Whole shards with as many documents as were read, or one line and none."""
    emptied(folder)
    output = tmp_path / "out"
    shutil.rmtree(output, ignore_errors=True)
    for number, kind in enumerate(which):
        content = changed(CONTENTS[kind][1], inside if number == 0 else [], 1.0)
        (folder / f"{number}.{CONTENTS[kind][0]}").write_bytes(content)
    config = PrepareConfig(
        [str(folder)], str(output), vocab_size=260, workers=1, on_damage="skip" if skip else "refuse"
    )
    summary, _ = answer(lambda: prepare(config))
    assert (output / "summary.json").exists() == (summary is not None)
    if summary is not None:
        counts = summary["counts"]
        kept = sum(split["documents"] for split in summary["splits"].values())
        assert kept == counts["documents read"] - counts.get("empty", 0) - counts["copies of another document"]


def test_the_checks_see_what_is_wrong(folder: Path) -> None:
    """A reader that let a traceback through, or counted nothing, would be found."""
    (emptied(folder) / "a.jsonl").write_bytes(LINES)
    assert check(folder) == (TEXTS, {})
    (folder / "a.jsonl").write_bytes(b"\0")
    with pytest.raises(InputError):
        read_documents(find_units([str(folder)], Counter())[0], Reading(), Counter()).__next__()
    assert check(folder, "skip") == ([], {f"damaged, skipped: {folder / 'a.jsonl'}": 1})
