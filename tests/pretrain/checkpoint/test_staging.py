"""Staging: each run has its own private folder; what others plant is refused and not followed."""

import dataclasses
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.staging import open_staging, staged_file
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings, writer_settings
from pretrain.config import CheckpointConfig, RunConfig
from tests.other_user import as_stranger, shared_place
from tests.pretrain.checkpoint.test_format import alone, fragments


def staged(place: Path) -> RunConfig:
    return RunConfig(name="same name", checkpoint=CheckpointConfig(staging=str(place)))


def save(folder: Path, staging: Path, step: int = 2) -> str | None:
    settings = WriterSettings(Retention(2, 0, 0), asynchronous=False, staging=staging)
    facts = CheckpointFacts(step, {"name": "x"}, {}, "alone")
    return CheckpointWriter(folder, alone(), settings).save(fragments(2, 3), facts)


def test_two_runs_of_one_name_share_no_folder(tmp_path: Path) -> None:
    one, other = (open_staging(staged(tmp_path), run_id) for run_id in ("1" * 16, "2" * 16))
    assert one is not None
    assert one != other
    assert one.parent == tmp_path
    assert writer_settings(staged(tmp_path), "1" * 16, one).staging == one
    assert open_staging(dataclasses.replace(staged(tmp_path), checkpoint=CheckpointConfig()), "1" * 16) is None


def test_a_strangers_folder_is_refused_before_training_and_when_saving(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    with shared_place() as place:

        def plant() -> None:
            (place / "run").mkdir()
            (place / "run/rank_00000.bin").symlink_to(tmp_path / "victim")

        as_stranger(plant)
        with pytest.raises(InputError, match=r"^checkpoint\.staging: .*/run belongs to"):
            open_staging(staged(place), "run")
        told = save(tmp_path / "checkpoints", place / "run")
        assert told is not None
        assert "checkpoint.staging: " in told
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_a_killed_save_left_goes_and_a_link_is_not_written_through(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir(mode=0o700)
    (tmp_path / "victim").write_text("precious")
    (folder / "rank_00000.bin").symlink_to(tmp_path / "victim")
    assert save(tmp_path / "checkpoints", folder) is None
    assert list(folder.iterdir()) == []
    assert (tmp_path / "victim").read_text() == "precious"
    CheckpointReader(step_folder(tmp_path / "checkpoints", 2)).verify()


def test_an_error_names_the_file_as_the_user_knows_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as error, staged_file(tmp_path / "node", "a") as file:
        (file.with_name("a")).read_bytes()
    assert error.value.filename == str(tmp_path / "node/a")
