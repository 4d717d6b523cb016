"""What the ranks say to each other about a save, while rank 0 may rename the folder under them."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.layout import rank_file
from pretrain.checkpoint.notes import FAILED, collect_notes, leave_note, wait_for_commit


def test_rank_0_hears_all_ranks_in_their_order(tmp_path: Path) -> None:
    for rank in (2, 0, 1):
        leave_note(tmp_path / "save", rank, {"rank": rank})
    assert collect_notes(tmp_path / "save", 3, "are done", lambda: False) == [{"rank": rank} for rank in range(3)]
    with pytest.raises(TimeoutError, match="3 of 4 ranks are done"):
        collect_notes(tmp_path / "save", 4, "are done", lambda: True)
    (tmp_path / "save" / rank_file(3, FAILED)).touch()
    with pytest.raises(RuntimeError, match="rank_00003 could not write its part"):
        collect_notes(tmp_path / "save", 4, "are done", lambda: False)


def test_the_folder_may_be_renamed_as_soon_as_the_last_note_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def replace_and_lose_the_folder(path: Path, target: Any) -> Any:
        result = replace(path, target)
        path.parent.rename(tmp_path / "step_00000003")
        return result

    monkeypatch.setattr(Path, "replace", replace_and_lose_the_folder)
    leave_note(tmp_path / "save.partial", 1, "done")
    assert (tmp_path / "step_00000003" / rank_file(1, "json")).read_text() == '"done"'


def test_a_folder_that_rank_0_renames_while_it_is_looked_into_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for look in ("exists", "is_dir"):  # each says that it is there, and the next look finds it gone
        monkeypatch.setattr(Path, look, lambda path: True)
    assert wait_for_commit(tmp_path / "gone.partial", 5.0)


def test_a_folder_that_stays_or_has_a_failed_rank_is_not_committed(tmp_path: Path) -> None:
    assert not wait_for_commit(tmp_path, 0.05)
    (tmp_path / rank_file(2, FAILED)).touch()
    assert not wait_for_commit(tmp_path, 5.0)
