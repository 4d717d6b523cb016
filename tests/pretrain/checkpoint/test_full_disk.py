"""A disk that is full or read-only: said clearly, nothing lost, and the run goes on once there is room."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.checks.storage import writing_problem
from pretrain.checkpoint.layout import list_steps
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import CheckpointConfig, RunConfig
from tests.disk import SmallDisk, small_disk
from tests.pretrain.test_run import STEPS, config_for, losses, train
from tests.world import run_world


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "640k") as disk:
        yield disk


def train_aloud(config: RunConfig, told: Path) -> str:
    """As ``train``; what the ranks print goes to the file ``told``."""
    with told.open("a") as file, contextlib.redirect_stdout(file):
        return train(config)


def test_a_full_disk_costs_no_checkpoint_and_no_step(disk: SmallDisk, corpus: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    checkpoint = CheckpointConfig(every=STEPS // 3, keep=2)
    whole = config_for(corpus, tmp_path / "whole", checkpoint=checkpoint)
    run_world(2, train, whole)
    config = replace(whole, run_dir=str(disk.folder / "run"))
    with pytest.raises(RuntimeError, match=f"CheckpointError: checkpoint of step {STEPS} .*No space left on device"):
        run_world(2, train_aloud, config, told)
    assert losses(disk.folder / "run") == losses(tmp_path / "whole"), "training went on"
    assert f"WARNING: checkpoint of step {2 * STEPS // 3} failed on rank" in told.read_text()
    checkpoints = disk.folder / "run" / "checkpoints"
    [kept] = list_steps(checkpoints)
    CheckpointReader(kept).verify()
    assert not list(checkpoints.glob("*.partial"))

    disk.remount("ro")
    assert "cannot be written: Read-only file system" in str(writing_problem(disk.folder / "run"))
    with pytest.raises(
        RuntimeError, match=r"InputError: run_dir: .*cannot be written: .*Read-only file system"
    ) as refused:
        run_world(2, train, config)
    assert "During handling of the above exception" not in str(refused.value), "the record that failed hid the reason"

    disk.remount("rw,size=4m")
    assert run_world(2, train_aloud, config, told) == ["finished", "finished"]
    assert f"resuming at step {STEPS // 3} of {STEPS}" in told.read_text()
    assert losses(disk.folder / "run") == losses(tmp_path / "whole")
