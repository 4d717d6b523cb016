"""Checkpoints in a remote folder: whole or absent there too, and enough to go on from."""

import threading
from pathlib import Path

import pytest

from common.errors import InputError
from pretrain.checkpoint.layout import MANIFEST, POINTER, list_steps, step_folder, step_of
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.remote import RemoteCheckpoints
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, WriterSettings, writer_settings
from pretrain.config import ResilienceConfig, RunConfig
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


class SilentStore(RemoteCheckpoints):
    """Takes a file only when it is told to ``answer``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"file://{folder / 'remote'}", "0123456789abcdef")
        self.claim(folder / "local")
        self.answer, self.puts = threading.Event(), 0

    def put(self, file: Path, step_name: str) -> None:
        self.puts += 1
        assert self.answer.wait(60)
        super().put(file, step_name)


def test_a_store_that_does_not_answer_costs_its_copies_and_holds_saves_up_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, remote = tmp_path / "local", SilentStore(tmp_path)
    settings = WriterSettings(Retention(3, 0, 0), remote=remote, patience_seconds=0.2)
    writer = CheckpointWriter(local, alone(), settings)

    def save_of(step: int) -> str | None:
        return writer.save(fragments(2, 3), CheckpointFacts(step, {"name": "x"}, {}, "alone"))

    for step in (3, 5, 7):
        assert save_of(step) is None
    assert writer.wait() is None
    assert remote.puts == 1, "nobody waits behind the copy that was given up"
    assert [step_of(folder) for folder in list_steps(local)] == [3, 5, 7]
    told = capsys.readouterr().out
    assert f"{local}/step_00000003 is whole, but has no copy in {remote.url}: given up after another 0 s" in told
    for step in (5, 7):
        assert f"step_{step:08d} is whole, but has no copy in {remote.url}: an earlier one that was given up" in told
    remote.answer.set()
    assert writer._uploads is not None and writer._uploads._thread is not None
    writer._uploads._thread.join(60)
    assert remote.steps() == [], "a copy that was given up does not appear later"
    assert save_of(9) is None
    assert writer.wait() is None
    assert remote.steps() == [9], "it is tried again when the store answers"
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in local.iterdir()) == [POINTER, *(f"step_0000000{step}" for step in (5, 7, 9))]


def test_the_patience_is_shorter_than_the_watchdogs() -> None:
    config = RunConfig(resilience=ResilienceConfig(hang_seconds=700.0))
    assert writer_settings(config, "1" * 16).patience_seconds == 350
    assert writer_settings(RunConfig(resilience=ResilienceConfig(hang_seconds=0)), "1" * 16).patience_seconds > 0
