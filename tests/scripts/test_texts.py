"""Held-out text for the evaluator: the very documents that a preparation reads, in every kind of file."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import datasets
import numpy as np
import pytest

from common.errors import InputError
from scripts.evaluation.subject import Subject
from scripts.evaluation.texts import open_held_out

TEXTS = [f"document {number} says {'word ' * (number % 7)}" for number in range(40)]


def subject() -> Subject:
    """A model whose tokens are bytes; 0 ends a document."""
    double = SimpleNamespace(end_id=0, name="double", encode=lambda text: text.encode())
    return cast(Subject, double)


def opened(data: Path) -> Any:
    return open_held_out(str(data), subject(), sequence_length=16, most_samples=0)


def write_all(folder: Path) -> None:
    """The same documents in several kinds of file."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    for name in ("a.jsonl", "a.ndjson"):
        (folder / name).write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    table = datasets.Dataset.from_dict({"text": TEXTS})
    table.to_parquet(str(folder / "a.parquet"))
    table.to_csv(str(folder / "a.csv"))
    table.save_to_disk(str(folder / "saved"))


def test_every_kind_of_file_gives_the_same_samples(tmp_path: Path) -> None:
    write_all(tmp_path)
    first = opened(tmp_path / "a.jsonl")
    tokens = first.fetch(np.arange(first.num_samples))
    content = b"".join(text.encode() + b"\0" for text in TEXTS)
    np.testing.assert_array_equal(tokens[:, :-1].reshape(-1), np.frombuffer(content, np.uint8)[: tokens[:, :-1].size])
    for data in sorted(tmp_path.iterdir()):
        found = opened(data)
        np.testing.assert_array_equal(found.fetch(np.arange(found.num_samples)), tokens, err_msg=str(data))
        assert found.bytes_per_token == first.bytes_per_token


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "long enough for one sample"}\n{"text": "cut\n{"n": 1}\n')
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    opened(tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"--data {tmp_path}: ") for line in lines] == [
        "1 files of other kinds (.png)",
        "1 malformed JSON",
        "1 no text in 'text'",
    ]


def test_another_column_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,content\n1,long enough for one sample\n")
    found = open_held_out(str(tmp_path / "a.csv"), subject(), 16, 0, "content")
    assert bytes(found.fetch(np.array([0]))[0].tolist()) == b"long enough for o"


def test_too_little_text_says_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"text": "short"}\n')
    with pytest.raises(InputError, match=r"6 tokens, too few for one sample of 16; left out: 1 no text in 'text'"):
        opened(tmp_path)
    with pytest.raises(InputError, match=r"--ar_hit.training .*none: no such file"):
        open_held_out(str(tmp_path / "none"), subject(), 16, 0, flag="--ar_hit.training")


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 9999)[:60])
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    (tmp_path / "c.csv").write_text("content\na\n")
    for name, message in (
        ("a.jsonl.gz", r"a\.jsonl\.gz: damaged"),
        ("b.png", r"--data .*b\.png: not a kind of file that is read"),
        ("c.csv", r"no such column"),
        ("none.txt", r"--data .*none\.txt: no such file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            opened(tmp_path / name)
