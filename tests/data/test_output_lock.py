"""The lock of an output folder: one writer, whoever ends and however, and nothing left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError
from data.output_lock import LOCK_FILE, only_writer
from data.prepare import PrepareConfig, prepare
from tests.conftest import ROOT

HOLD = "import sys, time, pathlib\nfrom data.output_lock import only_writer\n"
HOLD += "with only_writer(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Gone by SIGKILL, too."""
    (tmp_path / "a.txt").write_text("a document of words")
    settings = PrepareConfig([str(tmp_path / "a.txt")], str(tmp_path / "out"), vocab_size=260, workers=1, validation=0)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=rf"--output {tmp_path / 'out'}: another process writes there"):
        prepare(settings)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / "out" / LOCK_FILE).exists()
    assert prepare(settings)["splits"]["train"]["documents"] == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["summary.json", "train", "validation"]


def test_a_writer_that_fails_gives_the_folder_back(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "out"):
            with pytest.raises(InputError, match="another process writes there"), only_writer(tmp_path / "out"):
                pass
            raise ZeroDivisionError
        assert not list((tmp_path / "out").iterdir())


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / LOCK_FILE).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"), only_writer(tmp_path):
        pass
    assert (tmp_path / "theirs").read_text() == "precious"
