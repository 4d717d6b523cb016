"""Whose a remote folder is: a run that lost its disk goes on from there, and no other run does."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.remote import RemoteCheckpoints
from pretrain.checkpoint.remote_start import join_remote
from pretrain.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pretrain.engines.connection import connect
from pretrain.run_id import ID_FILE
from pretrain.topology import topology_from_environment
from tests.pretrain.test_run import config_for, losses, train
from tests.world import run_world


def config_of(corpus: Path, place: Path, run: str, steps: int = 7) -> RunConfig:
    return config_for(
        corpus,
        place / run,
        train=TrainConfig(steps=steps),
        checkpoint=CheckpointConfig(every=3, keep=0, remote=f"file://{place / 'remote'}"),
        evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
    )


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `a` with checkpoints of steps 3, 6 and 7, here and in `remote`."""
    place = tmp_path_factory.mktemp("trained")
    run_world(1, train, config_of(corpus, place, "a"))
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy, in which the run's folder has the place of the copy."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for file in (tmp_path / "a" / ID_FILE, tmp_path / "remote" / ID_FILE):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(content | {"folder": str(tmp_path / "a")}))
    return tmp_path


def joined(config: RunConfig) -> str:
    """What a rank is told, or refused with; for `run_world`."""
    topology = topology_from_environment(config.parallel)
    connect(topology)
    try:
        return join_remote(config, topology)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_lost_its_folder_goes_on_as_itself(place: Path, corpus: Path) -> None:
    run_id = json.loads((place / "remote" / ID_FILE).read_text())["id"]
    whole = losses(place / "a")
    shutil.rmtree(place / "a")
    (place / "remote" / "step_00000007" / "rank_00000.bin").write_bytes(b"")
    assert run_world(2, train, config_of(corpus, place, "a")) == ["finished"] * 2
    assert losses(place / "a") == [(7, pytest.approx(whole[-1][1], abs=1e-5))]
    assert json.loads((place / "a" / ID_FILE).read_text())["id"] == run_id


@pytest.mark.parametrize("name", ["test", "another"])
def test_another_run_is_refused_on_every_rank_whatever_its_name(name: str, place: Path, corpus: Path) -> None:
    before = content_of(place / "remote")
    config = replace(config_of(corpus, place, "b"), name=name)
    first, second = run_world(2, joined, config)
    assert first == second
    assert first.startswith(f"InputError: checkpoint.remote: file://{place}/remote holds checkpoints up to step 7: ")
    assert f"those of the run in {place / 'a'}; name another folder" in first
    assert content_of(place / "remote") == before
    assert not (place / "b" / "checkpoints").exists()


def test_a_run_that_moved_goes_on_with_its_id(place: Path, corpus: Path) -> None:
    shutil.rmtree(place / "a")
    (place / "b").mkdir()
    shutil.copyfile(place / "remote" / ID_FILE, place / "b" / ID_FILE)
    assert run_world(1, train, config_of(corpus, place, "b", steps=8)) == ["finished"]
    assert [step for step, _ in losses(place / "b")] == [8]
    assert RemoteCheckpoints(f"file://{place / 'remote'}").steps() == [3, 6, 7, 8]


def test_a_copy_of_a_run_does_not_write_to_the_folder_of_the_first(place: Path, corpus: Path) -> None:
    shutil.copytree(place / "a", place / "b")
    (answer,) = run_world(1, joined, config_of(corpus, place, "b"))
    assert f"those of the run in {place / 'a'}" in answer


def test_checkpoints_without_an_id_are_this_runs_only_where_it_has_some(place: Path, corpus: Path) -> None:
    (place / "remote" / ID_FILE).unlink()
    (refused,) = run_world(1, joined, config_of(corpus, place, "b"))
    assert f"whose they are is not said (no {ID_FILE})" in refused
    (taken,) = run_world(1, joined, config_of(corpus, place, "a"))
    assert json.loads((place / "remote" / ID_FILE).read_text())["id"] == taken


@pytest.mark.parametrize("content", ["", "[]", '{"id": 7, "folder": "/"}', "[" * 9000, "\x00"])
def test_an_id_that_cannot_be_read_is_no_new_run(content: str, place: Path, corpus: Path) -> None:
    (place / "remote" / ID_FILE).write_text(content)
    (answer,) = run_world(1, joined, config_of(corpus, place, "b"))
    assert answer.startswith(f"InputError: checkpoint.remote: file://{place}/remote/{ID_FILE}")


def test_where_none_can_be_used_there_is_no_beginning(place: Path, corpus: Path) -> None:
    shutil.rmtree(place / "a")
    for step in (3, 6, 7):
        (step_folder(place / "remote", step) / "rank_00000.bin").unlink()
    answers = run_world(2, joined, config_of(corpus, place, "a"))
    assert len(set(answers)) == 1
    assert "none of its 3 checkpoints can be used" in answers[0]


def claimed_in_between(config: RunConfig, remote: str) -> Any:
    """Trains while another run takes the remote folder after the first save."""
    from pretrain.checkpoint import upload

    whole = upload.RemoteCheckpoints.commit

    def commit(self: RemoteCheckpoints, folder: Path) -> None:
        if folder.name != "step_00000003":
            RemoteCheckpoints(remote, "f" * 16).claim(Path("/elsewhere"))
        whole(self, folder)

    upload.RemoteCheckpoints.commit = commit  # type: ignore[method-assign]
    return train(config)


def test_a_folder_that_another_run_took_meanwhile_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, tmp_path, "a")
    assert run_world(1, claimed_in_between, config, config.checkpoint.remote) == ["finished"]
    assert RemoteCheckpoints(str(config.checkpoint.remote)).steps() == [3]
    assert len(list((tmp_path / "a" / "checkpoints").glob("step_*"))) == 3
