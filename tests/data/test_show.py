"""Shards shown as text: what went in, document by document, and no control codes."""

import json
import shutil
from pathlib import Path

import pytest

from common.cli import run_command
from common.errors import InputError
from data.__main__ import main
from data.prepare import PrepareConfig, prepare
from data.show import BORDER, ShowConfig, show


def test_documents_are_shown_whole_and_apart(corpus_files: list[str], prepared: Path) -> None:
    known = {json.loads(line)["text"] for file in corpus_files for line in Path(file).read_text().splitlines()}
    lines = list(show(ShowConfig(str(prepared / "train"), samples=1, tokens=3000)))
    assert lines[0].startswith(f"{prepared / 'train'}: ")
    assert lines[1] == "\n======== tokens 0 to 2,999 ========"
    shown, borders = lines[2:-1:2], lines[3:-1:2]
    assert len(borders) > 5
    assert set(borders) == {BORDER}
    assert all(text in known for text in shown[:-1])


def test_stretches_are_spread_and_never_longer_than_the_shards(prepared: Path) -> None:
    few = list(show(ShowConfig(str(prepared / "validation"), samples=4, tokens=10)))
    assert sum(line.startswith("\n====") for line in few) == 4
    everything = list(show(ShowConfig(str(prepared / "validation"), samples=50, tokens=1 << 20)))
    assert sum(line.startswith("\n====") for line in everything) == 1


def test_the_whole_preparation_is_shown_by_its_name_alone(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ["show", str(prepared), "--samples", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{prepared}/train: " in out
    assert f"{prepared}/validation: " in out
    assert out.count(BORDER) > 1


def test_control_codes_of_a_text_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "red \x1b[31m\r\x07 and\nblue \u202e"}))
    out = tmp_path / "out"
    prepare(PrepareConfig([str(tmp_path / "a.jsonl")], str(out), vocab_size=260, workers=1, validation=0.0))
    lines = list(show(ShowConfig(str(out / "train"))))
    assert lines[2:-1] == ["red \\x1b[31m\\r\\x07 and\nblue \\u202e", BORDER]
    assert any("validation: 0 documents" in line for line in show(ShowConfig(str(out))))


def test_what_cannot_be_shown_is_one_line(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no token shards"):
        list(show(ShowConfig(str(tmp_path))))
    damaged = Path(shutil.copytree(prepared / "train", tmp_path / "damaged"))
    tokens = bytearray((damaged / "00000.tokens").read_bytes())
    tokens[5] ^= 1
    (damaged / "00000.tokens").write_bytes(tokens)
    with pytest.raises(InputError, match=r"00000\.tokens: shard 0, block 0"):
        list(show(ShowConfig(str(damaged))))
