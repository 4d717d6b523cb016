"""Packed files: all of every stream, whatever lies between them, or an error; never a part in silence."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from data.damage import DamagedFile
from tests.data.reading import read_all

PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
FIRST, SECOND = b'{"text": "first"}\n' * 3000, b'{"text": "second"}\n' * 3000
TEXTS = ["first"] * 3000 + ["second"] * 3000


@pytest.mark.parametrize("kind", PACK)
def test_streams_that_follow_each_other_are_one_file(kind: str, tmp_path: Path) -> None:
    """As the parallel packers write them; tapes pad with zeros."""
    file, pack = tmp_path / f"a.jsonl.{kind}", PACK[kind]
    for between in (b"", pack(b""), b"\0" * 512, b"\0" * (1 << 17)):
        file.write_bytes(pack(FIRST) + between + pack(SECOND) + b"\0" * 1024)
        assert read_all(file) == (TEXTS, {})


@pytest.mark.parametrize("kind", PACK)
def test_a_spoiled_second_stream_is_no_end_of_the_file(kind: str, tmp_path: Path) -> None:
    file, first, second = tmp_path / f"a.jsonl.{kind}", PACK[kind](FIRST), PACK[kind](SECOND)
    spoiled = [b"x" + second[1:], second[:2], second[:-1], second[: len(second) // 2], b"junk", b"\0" * 99 + b"x"]
    for rest in spoiled:
        file.write_bytes(first + rest)
        with pytest.raises(DamagedFile, match=rf"a\.jsonl\.{kind}: damaged"):
            read_all(file)
