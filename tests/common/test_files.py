"""Files are whole or absent."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.files import (
    TEMPORARY_SUFFIX,
    atomic_file,
    finite,
    open_itself,
    read_json,
    sha256_of_json,
    write_atomically,
    write_json,
)


def test_a_write_that_fails_leaves_the_old_content_and_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert not list(path.parent.glob(f"*{TEMPORARY_SUFFIX}"))


def test_json_round_trip_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [1, 2]})
    write_json(tmp_path / "b", {"a": [1, 2], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sha256_of_json({"b": 1, "a": 2}) == sha256_of_json({"a": 2, "b": 1})


def test_missing_and_torn_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such manifest"):
        read_json(tmp_path / "none", "manifest")
    (tmp_path / "torn").write_text('{"a": ')
    with pytest.raises(InputError, match="torn: not a readable manifest"):
        read_json(tmp_path / "torn", "manifest")


def test_no_link_is_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "f"
    path.symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels"), open_itself(path, "a"):
        pass
    write_atomically(path, "new")
    assert path.read_text() == "new"
    monkeypatch.setattr("secrets.token_hex", lambda size: "foreseen")
    (tmp_path / f"g.foreseen{TEMPORARY_SUFFIX}").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "g", "new")
    assert victim.read_text() == "precious"


def test_the_temporary_name_cannot_be_foreseen(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with atomic_file(tmp_path / "f"):
            seen |= {path.name for path in tmp_path.glob(f"*{TEMPORARY_SUFFIX}")}
    assert len(seen) == 20


def test_numbers_for_which_json_has_no_word_are_null_wherever_they_stand() -> None:
    value = {"a": [1.5, float("nan"), (float("inf"), 3)], 7: {"b": -float("inf"), "c": None, "d": "nan", "e": True}}
    assert finite(value) == {"a": [1.5, None, [None, 3]], "7": {"b": None, "c": None, "d": "nan", "e": True}}
