"""The checkpoint tool: list, verify, inspect, diff."""

import re
import shutil
from pathlib import Path

import pytest

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.reader import CheckpointReader
from scripts import checkpoint
from scripts.checkpoint import main
from tests.pretrain.checkpoint.test_format import WHOLE, save


def test_list_verify_inspect_and_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 6):
        save(tmp_path / "checkpoints", step=step)
    assert main(["list", str(tmp_path)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["step_00000003", "step_00000006"]
    assert main(["verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": whole") == 2
    assert main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "step 6, written on" in told
    assert all(f"{name} " in told for name in WHOLE)
    assert told.count("  exp_avg 0.000e+00  exp_avg_sq 0.000e+00\n") == len(WHOLE)
    assert main(["diff", *(str(step_folder(tmp_path / "checkpoints", step)) for step in (3, 6))]) == 0
    assert capsys.readouterr().out == "equal\n"


def test_damage_and_differences_are_told_and_give_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a")
    WHOLE["column"][0, 0] += 1
    save(tmp_path / "b")
    WHOLE["column"][0, 0] -= 1
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "column" in (told := capsys.readouterr().out)
    assert "largest difference 1.000e+00" in told
    file = step_folder(tmp_path / "a", 3) / "rank_00000.bin"
    content = bytearray(file.read_bytes())
    content[4] ^= 8
    file.write_bytes(content)
    assert main(["verify", str(tmp_path / "a")]) == 1
    assert "DAMAGED" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "verify"])
@pytest.mark.parametrize("when", ["before it is read", "after"])
def test_a_checkpoint_that_its_run_removes_meanwhile_is_no_damage(
    command: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (3, 6):
        save(tmp_path / "checkpoints", step=step)

    class Removed(CheckpointReader):
        def __init__(self, folder: Path) -> None:
            goes = folder.name == "step_00000003"
            if goes and when == "before it is read":
                shutil.rmtree(folder)
            super().__init__(folder)
            if goes:
                shutil.rmtree(folder)

    monkeypatch.setattr(checkpoint, "CheckpointReader", Removed)
    assert main([command, str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"step_00000003:? +gone meanwhile\n", told) and "step_00000006" in told
