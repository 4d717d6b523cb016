"""Shards: whatever is wrong with a file is found, named and never returned as tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from data.config import CacheConfig, DataConfig, SourceConfig
from data.manifest import PAGE_BYTES
from data.source import TokenSource, open_source
from data.storage import OPEN_FILES
from data.stream import open_stream
from tests.data.helpers import random_tokens, write_dataset

TOKENS = [random_tokens(100_000, 1), random_tokens(50_000, 2), random_tokens(1, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "shards", TOKENS)


def opened(folder: Path) -> TokenSource:
    return open_source(str(folder), CacheConfig())


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_tokens_run_on_from_shard_to_shard(folder: Path) -> None:
    reader, tokens = opened(folder).reader, np.concatenate(TOKENS)
    for start, count in ((0, 10), (32_760, 20), (99_990, 20), (149_990, 11), (0, 150_001), (70_000, 0)):
        assert np.array_equal(reader.read(start, count), tokens[start : start + count])
    with pytest.raises(ValueError, match="150002"):
        reader.read(150_000, 2)


def test_a_flipped_bit_is_never_read_as_tokens(folder: Path) -> None:
    path = folder / "00001.tokens"
    content = bytearray(path.read_bytes())
    content[PAGE_BYTES + 77] ^= 4
    path.write_bytes(content)
    reader = opened(folder).reader
    assert np.array_equal(reader.read(100_000, 1000), TOKENS[1][:1000])  # the page before is whole
    message = rf"00001\.tokens: shard 1, block 1 \(bytes {PAGE_BYTES} to {100_000 - 1}\): its checksum differs"
    with pytest.raises(InputError, match=message):
        reader.read(100_000 + PAGE_BYTES // 2 + 5, 3)


def test_a_truncated_shard_is_found_at_the_start_and_when_it_shrinks_later(folder: Path) -> None:
    stream = open_stream(DataConfig([SourceConfig(str(folder))], sequence_length=64), 1)
    stream.fetch(np.arange(5))
    path = folder / "00000.tokens"
    path.write_bytes(path.read_bytes()[:-70_000])
    with pytest.raises(InputError, match=r"00000\.tokens: 130000 bytes, expected 200000: truncated"):
        open_stream(DataConfig([SourceConfig(str(folder))], sequence_length=64), 1)
    with pytest.raises(InputError, match=r"00000\.tokens: ends at byte [0-9]+, expected .* truncated"):
        stream.fetch(np.arange(2000))


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "00001.tokens").unlink()
    with pytest.raises(InputError, match=r"00001\.tokens: no such file"):
        open_stream(DataConfig([SourceConfig(str(folder))], sequence_length=64), 1)


def test_damaged_checksums_are_not_believed(folder: Path) -> None:
    path = folder / "00000.checksums"
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(InputError, match=r"00000\.checksums: damaged"):
        opened(folder).reader.read(0, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dtype": "uint32"}, "00000.tokens: 200000 bytes, expected 400000: truncated"),
        ({"dtype": "float32"}, "dtype 'float32' is not one of"),
        ({"dtype": "uint8"}, "dtype 'uint8' is not one of"),
        ({"version": 99}, "format version 99, this program reads 1"),
        ({"tokens": 5}, "tokens is 5, the shards hold another number"),
        ({"largest_id": 5000}, "largest_id 5000 does not fit"),
        ({"tokenizer": {}}, "the tokenizer has no fingerprint"),
        ({"shards": 3}, "not a manifest of token shards"),
        ({"surprise": 3}, "not a manifest of token shards: unknown key 'surprise'"),
        ({"shards": [{"file": "00000.tokens"}]}, r"shards\[0\]: 'tokens' is missing"),
        ({"tokens": 100000.0}, "'tokens' must be a whole number"),
        ({"eod_id": 1000}, "eod_id: must be below 1,000, is 1000"),
        ({"unigram_entropy": float("nan")}, "'unigram_entropy' must be a finite number"),
        ({"text_bytes": -1}, "text_bytes: must be at least 0"),
        ({"page_bytes": 1 << 40}, "page_bytes: must be at most 1,073,741,824"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_the_files_is_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    change_manifest(folder, **values)
    with pytest.raises(InputError, match=message):
        open_stream(DataConfig([SourceConfig(str(folder))], sequence_length=64), 1)


def test_the_dataset_id_depends_on_the_content_alone(folder: Path, tmp_path: Path) -> None:
    copy = write_dataset(tmp_path / "copy", TOKENS)
    change_manifest(copy, preparation={"note": "made elsewhere"})
    changed = [TOKENS[0], TOKENS[1], np.array(TOKENS[2]) + 1]
    other = write_dataset(tmp_path / "other", changed)
    assert opened(copy).id == opened(folder).id != opened(other).id


def test_open_files_are_bounded(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "many", [random_tokens(10, seed) for seed in range(OPEN_FILES + 5)])
    reader = opened(folder).reader
    before = len(list(Path("/proc/self/fd").iterdir()))
    for start in range(0, reader.manifest.tokens, 10):
        reader.read(start, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= OPEN_FILES + 2
