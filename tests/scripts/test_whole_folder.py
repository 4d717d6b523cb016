"""An output folder is whole or absent, and has one maker at a time."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from scripts.hub.whole_folder import whole_folder
from tests.conftest import ROOT

HOLD = "import sys, time, pathlib\nfrom scripts.hub.whole_folder import whole_folder\n"
HOLD += "with whole_folder(pathlib.Path(sys.argv[1])) as made:\n    (made / 'half').touch()\n"
HOLD += "    print('held', flush=True)\n    time.sleep(60)"


def make(output: Path, content: str) -> None:
    with whole_folder(output) as made:
        (made / "file").write_text(content)


def test_a_second_maker_is_refused_and_harms_nothing_until_the_first_is_gone(tmp_path: Path) -> None:
    """Gone by SIGKILL, too."""
    output = tmp_path / "deep/out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"^--output {output}: another process writes it"):
        make(output, "second")
    assert (tmp_path / "deep/out.partial/half").exists()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    make(output, "second")
    assert [path.name for path in output.iterdir()] == ["file"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_what_fails_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out") as made:
        (made / "file").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "out/file").read_text() == "old"
    make(tmp_path / "out", "new")
    assert (tmp_path / "out/file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("failing", ["rename", "rmtree"])
def test_a_replacement_that_fails_halfway_loses_neither_folder(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one gets no name; or files of the old one stay, since a program on a network file system has them."""
    output, rename = tmp_path / "out[1]", Path.rename
    make(output, "old")

    def refused(path: Path, target: Path) -> Path:
        if path.name == "out[1].partial":
            raise OSError("no")
        return rename(path, target)

    if failing == "rename":
        monkeypatch.setattr(Path, "rename", refused)
        with pytest.raises(OSError, match="no"):
            make(output, "new")
    else:
        monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)
        make(output, "new")
    assert (output / "file").read_text() == ("old" if failing == "rename" else "new")
    monkeypatch.undo()
    make(output, "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out[1]"], "what stayed goes with the next"
