"""Folders of libraries: never one under /tmp that another user could have made first."""

import os
import stat
from pathlib import Path

import pytest

from common.library_caches import INDUCTOR, TIKTOKEN, keep_compiled_code_private, private_encodings


@pytest.fixture(autouse=True)
def nothing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (INDUCTOR, *TIKTOKEN):
        monkeypatch.setenv(variable, "")  # so that what the test leaves behind goes
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_compiled_code_lies_in_a_folder_of_this_user_alone(tmp_path: Path) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert not cache_dir().startswith(str(tmp_path))  # what it is about: the library's own choice
    os.environ.pop(INDUCTOR)
    keep_compiled_code_private()
    assert cache_dir() == str(tmp_path / "cache/shared-diff/inductor")
    assert stat.S_IMODE(Path(cache_dir()).stat().st_mode) == 0o700


def test_without_a_home_it_is_a_folder_that_nobody_foresees(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = list[Path]()
    monkeypatch.setattr("atexit.register", lambda act, folder, **rest: gone.append(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    keep_compiled_code_private()
    made = Path(os.environ[INDUCTOR])
    assert gone == [made]
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.rmdir()


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INDUCTOR, "/mine")
    monkeypatch.setenv(TIKTOKEN[1], "/mine, too")
    keep_compiled_code_private()
    with private_encodings():
        assert os.environ[INDUCTOR] == "/mine"
        assert TIKTOKEN[0] not in os.environ


def test_tiktoken_keeps_its_files_in_the_users_cache_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiktoken import load

    monkeypatch.setattr(load, "read_file", lambda address: b"ranks")
    with private_encodings():
        load.read_file_cached("https://some.where/encoding")
    (kept,) = (tmp_path / "cache/shared-diff/encodings").iterdir()
    assert kept.read_bytes() == b"ranks"
    assert TIKTOKEN[0] not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nobody")
    with private_encodings():
        assert load.read_file_cached("https://some.where/encoding") == b"ranks"
        assert os.environ[TIKTOKEN[0]] == ""
