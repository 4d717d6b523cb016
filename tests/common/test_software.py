"""Which program this is: its own commit, never that of a checkout around it."""

import os
import subprocess
from pathlib import Path

import pytest

from common.software import CHANGED, PROGRAM, commit, versions

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | IDENTITY
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A program of one file, committed."""
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "--quiet")
    (root / "a.py").write_text("pass\n")
    git(root, "add", "a.py")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def test_a_checkout_has_a_commit_and_a_word_where_its_code_differs(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == head
    (checkout / "notes.txt").write_text("no code\n")
    (checkout / "other.py").write_text("# nobody's yet\n")
    assert commit(checkout) == head
    (checkout / "a.py").write_text("pass  # changed\n")
    assert commit(checkout) == head + CHANGED


def test_a_program_inside_another_checkout_has_none(checkout: Path) -> None:
    inside = checkout / ".venv/lib/site-packages"
    inside.mkdir(parents=True)
    assert commit(inside) is None


def test_a_hook_of_another_checkout_does_not_divert_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD")


def test_without_git_or_a_commit_nothing_is_known(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    assert commit(tmp_path / "empty") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(checkout) is None


def test_versions_are_those_that_are_installed() -> None:
    found = versions([PROGRAM, "torch", "no-such-package"])
    assert {"python", "torch"} <= found.keys() <= {"python", "torch", PROGRAM}
