"""Which checkpoints stay, and that nothing is lost where one that may go is gone already or will not go."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.layout import POINTER, step_folder
from pretrain.checkpoint.retention import Retention, remove_checkpoint
from tests.pretrain.checkpoint.test_format import save


def kept(steps: list[int], **rules: int) -> list[int]:
    """What stays if every step's checkpoint retires the ones before it, as in a run."""
    settings = {"keep": 2, "keep_every": 0, "keep_tokens": 0, **rules}
    retention = Retention(**settings, tokens_at=lambda step: 10 * step)
    there: list[int] = []
    for step in steps:
        there.append(step)
        there = [step for step in there if step not in retention.expired(there)]
    return there


STEPS = list(range(10, 110, 10))


def test_the_newest_stay() -> None:
    assert kept(STEPS) == [90, 100]
    assert kept(STEPS, keep=0) == STEPS


def test_multiples_of_keep_every_stay_for_ever() -> None:
    assert kept(STEPS, keep_every=30) == [30, 60, 90, 100]


def test_the_first_past_every_milestone_stays_for_ever() -> None:
    """Milestones at 250, 500, 750, 1000 tokens: steps 30, 50, 80 and 100."""
    assert kept(STEPS, keep_tokens=250, keep=1) == [30, 50, 80, 100]


def test_one_that_a_person_has_removed_meanwhile_is_as_good(tmp_path: Path) -> None:
    gone = step_folder(tmp_path, 3)
    remove_checkpoint(gone)
    gone.mkdir()
    (gone / "rank_00000.bin").write_bytes(b"x")
    remove_checkpoint(gone)
    assert list(tmp_path.iterdir()) == []


def test_an_old_one_that_will_not_go_is_a_warning_and_the_save_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = Path.rename

    def refuse_of_step_3(path: Path, target: Any) -> Any:
        if path.name == "step_00000003":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_of_step_3)
    for step in (3, 6, 9, 12):
        assert save(tmp_path, step=step, keep=2) is None
    assert (tmp_path / POINTER).read_text() == "step_00000012\n"
    assert [path.name for path in sorted(tmp_path.glob("step_*"))] == [f"step_{step:08d}" for step in (3, 9, 12)]
    assert f"WARNING: {tmp_path}/step_00000003: Permission denied; it has expired, and stays" in capsys.readouterr().out


def test_a_surprise_after_a_save_is_a_warning_and_the_save_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(retention: Retention, steps: list[int]) -> list[int]:
        raise RuntimeError("cannot count")

    monkeypatch.setattr(Retention, "expired", refuse)
    assert save(tmp_path, step=3, keep=1) is None
    assert "WARNING: after the save of step 3: cannot count" in capsys.readouterr().out
