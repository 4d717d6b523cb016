"""Checkpoints in a remote folder: whole or absent there too, and enough to go on from."""

from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.checkpoint.layout import MANIFEST, step_folder
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.remote import RemoteCheckpoints
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings
from tests.pretrain.checkpoint.test_format import alone, fragments


def own_remote(folder: Path) -> RemoteCheckpoints:
    remote = RemoteCheckpoints(f"file://{folder / 'remote'}", "0123456789abcdef")
    remote.claim(folder / "local")
    return remote


def save(folder: Path, remote: RemoteCheckpoints, step: int, staging: Path | None = None) -> str | None:
    settings = WriterSettings(Retention(2, 0, 0), asynchronous=False, remote=remote, staging=staging)
    writer = CheckpointWriter(folder, alone(), settings)
    return writer.save(fragments(2, 3), CheckpointFacts(step, {"name": "x"}, {}, "alone"))


def test_what_was_saved_there_is_fetched_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    remote = own_remote(tmp_path)
    for step in (2, 4, 6):
        assert save(tmp_path / "local", remote, step) is None
    assert remote.steps() == [4, 6]
    fetched = remote.fetch(6, tmp_path / "elsewhere")
    for name in ("column", "row"):
        assert (
            CheckpointReader(fetched).read(name).equal(CheckpointReader(step_folder(tmp_path / "local", 6)).read(name))
        )


def test_a_remote_checkpoint_without_manifest_does_not_exist_and_a_damaged_one_leaves_nothing(tmp_path: Path) -> None:
    remote = own_remote(tmp_path)
    save(tmp_path / "local", remote, 2)
    save(tmp_path / "local", remote, 4)
    (tmp_path / "remote" / "step_00000004" / MANIFEST).unlink()
    assert remote.steps() == [2]
    file = tmp_path / "remote" / "step_00000002" / "rank_00000.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"step_00000002 cannot be used: .*rank_00000.bin"):
        remote.fetch(2, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_staging_is_left_empty(tmp_path: Path) -> None:
    remote = own_remote(tmp_path)
    assert save(tmp_path / "local", remote, 2, staging=tmp_path / "node") is None
    assert not list((tmp_path / "node").iterdir())
    CheckpointReader(step_folder(tmp_path / "local", 2)).verify()


def test_a_remote_that_cannot_be_opened_is_named() -> None:
    with pytest.raises(InputError, match=r"checkpoint\.remote: nosuch://x: cannot be read"):
        RemoteCheckpoints("nosuch://x")
