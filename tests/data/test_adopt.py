"""Existing flat files: adopted in place with the right layout, refused where they are not what they say."""

import struct
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from data.adopt import AdoptConfig, adopt
from data.config import CacheConfig, DataConfig, SourceConfig
from data.source import open_source
from data.stream import open_stream
from data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokens(prepared: Path) -> np.ndarray:
    """The tokens of the prepared corpus, whose tokenizer made them."""
    source = open_source(str(prepared / "train"), CacheConfig())
    return source.reader.read(0, source.manifest.tokens)


@pytest.fixture(scope="module")
def tokenizer(prepared: Path) -> str:
    return str(prepared / "train")


def write_megatron(path: Path, tokens: np.ndarray, eod_id: int, code: int) -> Path:
    """As Megatron's IndexedDatasetBuilder lays it out: one sequence per document."""
    tokens.tofile(path)
    ends = np.flatnonzero(tokens == eod_id) + 1
    lengths = np.diff(np.concatenate([[0], ends])).astype("<i4")
    pointers = (np.cumsum(lengths) - lengths).astype("<i8") * tokens.itemsize
    with path.with_suffix(".idx").open("wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, len(lengths), len(lengths) + 1))
        file.write(lengths.tobytes() + pointers.tobytes() + np.arange(len(lengths) + 1, dtype="<i8").tobytes())
    return path


def write_datatrove(path: Path, tokens: np.ndarray, token_bytes: int) -> Path:
    tokens.tofile(path)
    path.with_name(path.name + ".metadata").write_text(f"gpt2|{token_bytes}\n{len(tokens)}\n0 T")
    return path


def test_every_kind_of_file_gives_the_same_samples_in_place(tokens: np.ndarray, tokenizer: str, tmp_path: Path) -> None:
    eod_id = load_tokenizer(Path(tokenizer)).eod_id
    np.save(tmp_path / "a.npy", tokens.astype("<u4"))
    files = [
        write_megatron(tmp_path / "m16.bin", tokens.astype("<u2"), eod_id, code=8),
        write_megatron(tmp_path / "m32.bin", tokens.astype("<i4"), eod_id, code=4),
        tmp_path / "a.npy",
        write_datatrove(tmp_path / "d.ds", tokens.astype("<u2"), 2),
    ]
    sizes = {file: file.stat().st_size for file in files}
    for number, file in enumerate(files):
        manifest = adopt(AdoptConfig([str(file)], str(tmp_path / f"adopted{number}"), tokenizer, workers=1))
        assert manifest.documents == np.count_nonzero(tokens == eod_id)
        config = DataConfig([SourceConfig(str(tmp_path / f"adopted{number}"))], sequence_length=32)
        stream = open_stream(config, 1)
        places = stream.order.locate(np.arange(200)).sample
        expected = np.stack([tokens[place * 32 : place * 32 + 33] for place in places.tolist()])
        assert np.array_equal(stream.fetch(np.arange(200)), expected)
        assert sum(one.stat().st_size for one in (tmp_path / f"adopted{number}").iterdir()) < 100_000
    assert {file: file.stat().st_size for file in files} == sizes


def test_several_files_are_one_stream(tokens: np.ndarray, tokenizer: str, tmp_path: Path) -> None:
    half = len(tokens) // 2
    for name, part in (("a", tokens[:half]), ("b", tokens[half:])):
        np.save(tmp_path / f"{name}.npy", part.astype("<u2"))
    files = [str(tmp_path / "b.npy"), str(tmp_path / "a.npy")]
    adopt(AdoptConfig(files, str(tmp_path / "out"), tokenizer, workers=1))
    reader = open_source(str(tmp_path / "out"), CacheConfig()).reader
    assert np.array_equal(reader.read(0, len(tokens)), np.concatenate([tokens[half:], tokens[:half]]))


def test_damage_to_an_adopted_file_is_found(tokens: np.ndarray, tokenizer: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", tokens.astype("<u2"))
    adopt(AdoptConfig([str(tmp_path / "a.npy")], str(tmp_path / "out"), tokenizer, workers=1))
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[1000] ^= 1
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"/a\.npy: shard 0, block 0 \(bytes 128 to"):
        open_source(str(tmp_path / "out"), CacheConfig()).reader.read(0, 10)


def test_a_file_named_twice_is_refused(tokens: np.ndarray, tokenizer: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", tokens.astype("<u2"))
    (tmp_path / "b.npy").symlink_to(tmp_path / "a.npy")
    for again in ("a.npy", "./a.npy", "b.npy"):
        with pytest.raises(InputError, match=r"named twice"):
            adopt(
                AdoptConfig([f"{tmp_path}/a.npy", f"{tmp_path}/{again}"], str(tmp_path / "out"), tokenizer, workers=1)
            )


def test_what_is_not_what_it_says_is_refused(tokens: np.ndarray, tokenizer: str, tmp_path: Path) -> None:
    eod_id = load_tokenizer(Path(tokenizer)).eod_id
    short = tokens.astype("<u2")
    write_megatron(tmp_path / "type.bin", tokens.astype("<u4"), eod_id, code=8)
    write_megatron(tmp_path / "float.bin", tokens.astype("<f4"), eod_id, code=6)
    write_megatron(tmp_path / "cut.bin", short, eod_id, code=8).write_bytes(short.tobytes()[:-6])
    write_megatron(tmp_path / "index.bin", short, eod_id, code=8).with_suffix(".idx").write_bytes(b"MMID")
    short.tofile(tmp_path / "alone.bin")
    write_datatrove(tmp_path / "size.ds", tokens.astype("<u4"), 2)
    short.tofile(tmp_path / "alone.ds")
    np.save(tmp_path / "flat.npy", short.reshape(1, -1))
    np.save(tmp_path / "big.npy", tokens.astype(">u4"))
    np.save(tmp_path / "foreign.npy", np.array([*short.tolist(), 5000], "<u2"))
    np.save(tmp_path / "endless.npy", short[short != eod_id])
    np.save(tmp_path / "empty.npy", short[:0])
    (tmp_path / "text.txt").write_text("words")
    for name, message in (
        ("type.bin", "tokens of uint16 take"),
        ("float.bin", "tokens of type float32; expected one of"),
        ("cut.bin", "tokens of uint16 take"),
        ("index.bin", "index.idx: needed beside index.bin, not readable"),
        ("alone.bin", "alone.idx: needed beside alone.bin, not readable"),
        ("size.ds", "tokens of uint16 take"),
        ("alone.ds", "alone.ds.metadata: needed beside alone.ds, not readable"),
        ("flat.npy", "expected one dimension of little-endian integers"),
        ("big.npy", "expected one dimension of little-endian integers"),
        ("foreign.npy", f"token {len(short)} is 5000, outside the tokenizer's 0 to"),
        ("endless.npy", f"token {eod_id}, which ends a document, never occurs"),
        ("empty.npy", "holds no tokens"),
        ("text.txt", "not one of Megatron's .bin, .npy or datatrove's .ds"),
        ("none.npy", "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            adopt(AdoptConfig([str(tmp_path / name)], str(tmp_path / "out"), tokenizer, workers=1))
        assert not (tmp_path / "out").exists()
