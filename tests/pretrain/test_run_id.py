"""A run's id: drawn once, its own in every folder, the same on every rank and after every start."""

import re
import shutil
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.run_id import ID_FILE, PATTERN, keep_run_id


def test_it_is_drawn_once_and_kept(tmp_path: Path) -> None:
    first = keep_run_id(tmp_path / "a")
    assert re.fullmatch(PATTERN, first)
    assert keep_run_id(tmp_path / "a") == first
    assert len({keep_run_id(tmp_path / str(number)) for number in range(50)} | {first}) == 51


def test_a_moved_folder_keeps_it_and_a_copy_gets_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = keep_run_id(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert keep_run_id(tmp_path / "moved") == first
    keep_run_id(tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    copy = keep_run_id(tmp_path / "copy")
    assert copy != keep_run_id(tmp_path / "b")
    assert "a copy of" in capsys.readouterr().out
    assert keep_run_id(tmp_path / "copy") == copy
    (tmp_path / "b" / ID_FILE).write_text('{"id": "0123456789abcdef", "folder": "/\\u0000"}')
    assert keep_run_id(tmp_path / "b") == "0123456789abcdef"
    (tmp_path / "link").symlink_to("b")
    assert keep_run_id(tmp_path / "link") == keep_run_id(tmp_path / "b")


def test_a_copy_of_a_moved_folder_gets_its_own_too(tmp_path: Path) -> None:
    first = keep_run_id(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert keep_run_id(tmp_path / "moved") == first
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    keep_run_id(tmp_path / "a")  # another run where the first one was
    assert keep_run_id(tmp_path / "copy") != first
    assert keep_run_id(tmp_path / "moved") == first


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        "null",
        '"id"',
        "[" * 5000,
        '{"id": 1, "folder": "/"}',
        '{"id": "0123456789abcdef"}',
        '{"id": "../../etc/passwd", "folder": "/"}',
        '{"id": "0123456789abcdef\\n", "folder": "/"}',
    ],
)
def test_a_file_with_something_else_is_one_line_and_not_drawn_over(tmp_path: Path, content: str) -> None:
    (tmp_path / ID_FILE).write_text(content)
    with pytest.raises(InputError, match=ID_FILE) as refusal:
        keep_run_id(tmp_path)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / ID_FILE).read_text() == content
