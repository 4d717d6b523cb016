"""Token files of others, spoiled: adopted with the tokens that are in them, or one line and nothing left behind."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.adopt import AdoptConfig, adopt
from data.config import CacheConfig
from data.manifest import Manifest
from data.small_bpe import train_small_bpe
from data.source import open_source
from tests.fuzz.rules import answer, fuzz

VOCAB_SIZE = 270
TOKENS = np.tile(np.arange(VOCAB_SIZE - 60, VOCAB_SIZE, dtype=np.int64), 5)
"""the last entry of the vocabulary ends a document"""
KINDS = ["bin", "npy", "ds"]
NUMBERS = st.sampled_from([0, 1, -1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_small_bpe(["some text to learn from, some text"], VOCAB_SIZE).save(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


def write(folder: Path, kind: str, tokens: np.ndarray) -> list[Path]:
    """A whole file of ``kind``, and what lies beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, tokens)
        return [path]
    tokens.tofile(path)
    if kind == "ds":
        beside = folder / "a.ds.metadata"
        beside.write_text(f"tokenizer|{tokens.itemsize}\n{len(tokens)}\n0 T")
        return [path, beside]
    lengths = np.array([len(tokens)], "<i4")
    code = {2: 8, 4: 4}[tokens.itemsize]
    content = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, 1, 2) + lengths.tobytes() + b"\0" * 24
    path.with_suffix(".idx").write_bytes(content)
    return [path, path.with_suffix(".idx")]


def check(folder: Path, kind: str, tokenizer: str) -> Manifest | None:
    """The file's own tokens, or one line that names a file, and no folder."""
    output = folder.parent / "out"
    shutil.rmtree(output, ignore_errors=True)
    path = folder / f"a.{kind}"
    manifest, line = answer(lambda: adopt(AdoptConfig([str(path)], str(output), tokenizer, workers=1)))
    if manifest is None:
        assert line is not None and f"{folder}/a." in line
        assert not output.exists()
        return None
    found = open_source(str(output), CacheConfig()).reader.read(0, manifest.tokens)
    content = path.read_bytes()[manifest.shards[0].header_bytes :]
    assert np.array_equal(found, np.frombuffer(content, manifest.dtype))
    assert manifest.documents >= 1
    return manifest


@fuzz(quick=150, long=1300)
@given(
    kind=st.sampled_from(KINDS),
    item=st.sampled_from(["<u2", "<i4"]),
    which=st.integers(0, 1),
    changes=st.lists(
        st.tuples(st.floats(0, 1) | st.integers(0, 140), st.integers(0, 9), st.binary(max_size=9)), max_size=3
    ),
    kept=st.just(1.0) | st.floats(0, 1),
)
def test_a_file_with_damage(
    kind: str,
    item: str,
    which: int,
    changes: list[tuple[float, int, bytes]],
    kept: float,
    folder: Path,
    tokenizer: str,
) -> None:
    files = write(folder, kind, TOKENS.astype(item))
    file = files[min(which, len(files) - 1)]
    content = file.read_bytes()
    for where, lost, junk in changes:
        at = int(where * len(content)) if isinstance(where, float) else where
        content = content[:at] + junk + content[at + lost :]
    file.write_bytes(content[: int(kept * len(content))])
    manifest = check(folder, kind, tokenizer)
    if not changes and kept == 1.0:
        assert manifest is not None
        assert manifest.tokens == len(TOKENS)


@fuzz(quick=80, long=600)
@given(
    version=NUMBERS,
    code=st.integers(0, 255),
    sequences=NUMBERS,
    lengths=st.lists(NUMBERS, max_size=4),
    fit=st.booleans(),
)
def test_a_megatron_index_of_any_numbers(
    version: int, code: int, sequences: int, lengths: list[int], fit: bool, folder: Path, tokenizer: str
) -> None:
    write(folder, "bin", TOKENS.astype("<u2"))
    count = len(lengths) if fit else sequences % 2**64
    head = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1 if fit else version % 2**64, code, count, count)
    (folder / "a.idx").write_bytes(head + np.array([one % 2**32 for one in lengths], "<u4").tobytes())
    check(folder, "bin", tokenizer)


VALUES = st.sampled_from(
    ["(300,)", "(-300,)", "(300, 1)", "()", "300", "(10**30,)", "(9" + "9" * 5000 + ",)", "None", "'x'", "(True,)"]
)
TYPES = st.sampled_from(
    ["'<u2'", "'>u2'", "'|O'", "'<f8'", "'<i8'", "'<u8'", "'|u1'", "[('a', '<u2')]", "'<M8[s]'", "'x'", "5", "'<U1'"]
)


@fuzz(quick=80, long=600)
@given(
    shape=VALUES, kind=TYPES, order=st.sampled_from(["False", "True", "7"]), version=st.integers(0, 4), extra=st.text()
)
def test_a_numpy_header_of_any_values(
    shape: str, kind: str, order: str, version: int, extra: str, folder: Path, tokenizer: str
) -> None:
    write(folder, "npy", TOKENS.astype("<u2"))
    header = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, {extra}}}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    head = b"\x93NUMPY" + bytes([version, 0]) + size + header
    (folder / "a.npy").write_bytes(head + TOKENS.astype("<u2").tobytes())
    check(folder, "npy", tokenizer)
