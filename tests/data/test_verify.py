"""`verify`: finds all damage and names shard, block and bytes."""

from pathlib import Path

import fsspec
import pytest

from common.errors import InputError
from data.config import CacheConfig
from data.manifest import PAGE_BYTES
from data.small_bpe import train_small_bpe
from data.verify import VerifyConfig, print_verdicts, verify
from tests.data.helpers import random_tokens, write_dataset

SIZES = (200_000, 100_000, 40_000, 70_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_small_bpe(["some text to learn from, some text"], 270)
    folder = write_dataset(
        tmp_path / "shards",
        [random_tokens(size, seed, vocab_size=256) for seed, size in enumerate(SIZES)],
        fingerprint=tokenizer.fingerprint,
    )
    tokenizer.save(folder)
    return folder


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_whole_shards_are_whole(folder: Path) -> None:
    (verdict,) = verify(VerifyConfig([str(folder)], workers=1))
    assert verdict.is_whole
    assert (verdict.shards, verdict.bytes) == (4, 2 * sum(SIZES))


def test_a_preparation_is_verified_by_its_name_alone(prepared: Path) -> None:
    verdicts = verify(VerifyConfig([str(prepared)], workers=1))
    assert [(verdict.path, verdict.is_whole) for verdict in verdicts] == [
        (f"{prepared}/train", True),
        (f"{prepared}/validation", True),
    ]


def test_a_folder_without_shards_is_found_before_anything_is_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="none: holds no token shards"):
        verify(VerifyConfig([str(folder), str(tmp_path / "none")], workers=1))
    assert capsys.readouterr().err == ""  # no progress


def test_a_spoiled_list_of_documents_is_found(folder: Path) -> None:
    file = folder / "00001.documents"
    whole = file.read_bytes()
    assert len(whole) > 100 * 24
    moved = bytearray(whole)
    moved[24 * 50] ^= 1  # the 50th document begins one token further, or one before
    for content in (whole[:-24], whole[:100], b"", whole + b"x", whole[24:] + whole[:24], whole[:24] * 9, bytes(moved)):
        file.write_bytes(content)
        (verdict,) = verify(VerifyConfig([str(folder)], workers=1))
        assert len(verdict.problems) == 1
        assert verdict.problems[0].startswith(f"{file}: ")
    file.unlink()
    assert verify(VerifyConfig([str(folder)], workers=1))[0].problems == [f"{file}: no such file"]
    file.write_bytes(whole)
    assert verify(VerifyConfig([str(folder)], workers=1))[0].is_whole


def test_a_store_is_verified_without_any_cache(folder: Path, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{folder}/", "/verified/", recursive=True)
    (tmp_path / "taken").write_text("a file, no folder")
    cache = CacheConfig(folder=str(tmp_path / "taken"))
    assert verify(VerifyConfig(["memory://verified"], workers=1, cache=cache))[0].is_whole
    store.pipe("/verified/00002.documents", b"short")
    (verdict,) = verify(VerifyConfig(["memory://verified"], workers=1, cache=cache))
    assert verdict.problems == [f"memory://verified/00002.documents: 5 bytes, expected {_documents_bytes(folder, 2)}"]


def _documents_bytes(folder: Path, shard: int) -> int:
    return (folder / f"{shard:05d}.documents").stat().st_size


def test_all_damage_is_found_by_one_call(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(folder / "00000.tokens", 5)
    flip(folder / "00000.tokens", 2 * SIZES[0] - 1)
    flip(folder / "00001.tokens", PAGE_BYTES)
    (folder / "00002.tokens").unlink()
    (folder / "00003.tokens").write_bytes(b"short")
    (verdict,) = verify(VerifyConfig([str(folder)], workers=2))
    assert not verdict.is_whole
    found = [(damage.shard, damage.page, damage.first_byte, damage.last_byte) for damage in verdict.damages]
    assert found == [
        (0, 0, 0, PAGE_BYTES - 1),
        (0, 6, 6 * PAGE_BYTES, 2 * SIZES[0] - 1),
        (1, 1, PAGE_BYTES, 2 * PAGE_BYTES - 1),
    ]
    assert [problem.partition(": ")[2] for problem in verdict.problems] == [
        "no such file",
        "5 bytes, expected 140000: truncated",
    ]
    print_verdicts([verdict])
    lines = capsys.readouterr().out.splitlines()
    assert f"00001.tokens: shard 1, block 1 (bytes {PAGE_BYTES} to {2 * PAGE_BYTES - 1})" in lines[4]
    assert lines[-1].endswith("5 problem(s); 4 shard(s), 820,000 bytes")


def test_damaged_checksums_and_another_tokenizer_are_found(folder: Path) -> None:
    flip(folder / "00001.checksums", 3)
    train_small_bpe(["other words"], 280).save(folder)
    (verdict,) = verify(VerifyConfig([str(folder)], workers=1))
    assert "the tokenizer in the folder is not the one that made the tokens" in verdict.problems[0]
    assert "00001.checksums: damaged" in verdict.problems[1]
    assert len(verdict.problems) == 2
