"""Records of a run: no step twice, nothing torn, and a full disk costs no step of the training."""

import math
import os
from pathlib import Path

import pytest

from pretrain.records import StepFile, forgiving
from pretrain.resilience.attempts import Attempt
from pretrain.step_lines import read_steps


def test_a_resumed_run_appends_and_never_has_two_lines_for_one_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = StepFile(path, resumed_at=0)
    assert not path.exists(), "nothing has been written"
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 2.5})
    first.close()
    with path.open("a") as torn:
        torn.write('{"step": 40, "lo')
    second = StepFile(path, resumed_at=20)
    second.write({"step": 30, "loss": math.nan})
    second.close()
    lines = read_steps(path)
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["loss"] is None


def test_lines_that_a_full_disk_refuses_come_whole_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "skipped_steps.jsonl"
    steps = StepFile(path, resumed_at=0)
    path.mkdir()  # stands for a disk that refuses
    for step in (1, 2):
        steps.write({"step": step})
    assert capsys.readouterr().out == f"WARNING: {path}: Is a directory; its lines wait until there is room\n"
    path.rmdir()
    steps.write({"step": 3})
    steps.close()
    assert [line["step"] for line in read_steps(path)] == [1, 2, 3]


def test_half_a_line_that_was_written_is_finished_before_the_next(tmp_path: Path) -> None:
    class Tight:
        """A file with room for a few bytes at a time, and none in between."""

        def __init__(self) -> None:
            self.content, self.calls = b"", 0

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls % 2 == 0:
                raise OSError(28, "No space left on device")
            self.content += data[:7]
            return min(7, len(data))

    steps, tight = StepFile(tmp_path / "metrics.jsonl", resumed_at=0), Tight()
    steps._file = tight  # type: ignore[assignment]
    for step in range(5):
        steps.write({"step": step})
    while steps._write_waiting():
        pass
    assert tight.content == b"".join(b'{"step": %d}\n' % step for step in range(5))


def test_what_is_lost_at_last_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = StepFile(path, resumed_at=0)
    path.mkdir()
    steps.write({"step": 1})
    steps.close()
    assert capsys.readouterr().out.splitlines()[-1] == f"WARNING: {path}: Is a directory; its last lines are lost"


def test_a_file_that_refuses_to_close_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As on a network file system, which may say at last only that it is full."""
    steps = StepFile(tmp_path / "steps", 0)
    steps.write({"step": 1})
    os.close(steps._file.fileno())  # type: ignore[union-attr]
    steps.close()
    assert "its last lines may be lost" in capsys.readouterr().out
    assert [line["step"] for line in read_steps(tmp_path / "steps")] == [1]


def test_progress_that_cannot_be_written_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attempt = Attempt(tmp_path, 3)
    (attempt.folder / "progress").mkdir(parents=True)
    for step in (1, 2):
        attempt.progress(step)
    assert capsys.readouterr().out == f"WARNING: {attempt.folder}/progress: Is a directory; it lags behind\n"
    (attempt.folder / "progress").rmdir()
    attempt.progress(3)
    assert (attempt.folder / "progress").read_text().split() == ["3"]


def test_a_block_that_the_disk_refuses_is_a_warning_and_other_errors_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with forgiving("nobody will know"):
        tmp_path.joinpath("no", "such").write_text("")
    assert capsys.readouterr().out == f"WARNING: {tmp_path}/no/such: No such file or directory; nobody will know\n"
    with pytest.raises(ZeroDivisionError), forgiving("nobody will know"):
        print(1 // 0)
