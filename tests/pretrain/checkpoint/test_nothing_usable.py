"""Nothing usable is not nothing: where there are checkpoints and none can be read, no run begins anew over them."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.checkpoint.layout import checksum
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.saved_state import check_resumable, trainer_state
from pretrain.config import CheckpointConfig, EvaluationConfig, RunConfig, TrainConfig
from pretrain.step_lines import read_steps
from tests.pretrain.checkpoint.edited import edit_manifest
from tests.pretrain.test_run import config_for, said_by_training, train
from tests.world import run_world

NOBODY = "ftp://127.0.0.1:9/checkpoints"
"""nobody listens there"""


def config_of(corpus: Path, run_dir: Path, steps: int, **checkpoint: Any) -> RunConfig:
    return config_for(
        corpus,
        run_dir,
        train=TrainConfig(steps=steps),
        checkpoint=CheckpointConfig(every=3, keep=2, **checkpoint),
        evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
    )


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    run_world(1, train, config_of(corpus, run_dir, 7))
    return run_dir


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy with checkpoints of steps 6 and 7."""
    shutil.copytree(trained, tmp_path / "run")
    yield tmp_path / "run"


def flip(folder: Path) -> None:
    file = folder / "rank_00000.bin"
    content = bytearray(file.read_bytes())
    content[1001] ^= 8
    file.write_bytes(content)


def poison(folder: Path, kind_of_values: str = "weight", value: float = np.nan) -> None:
    """Every number of a kind becomes ``value``, with checksums and a digest that are right."""

    def fill(body: Any) -> Any:
        for fragment in body["fragments"]:
            _, kind, _, _, numel, file, offset, _ = fragment
            if kind == kind_of_values:
                values = np.full(numel, value, np.float32)
                with (folder / file).open("r+b") as stream:
                    stream.seek(offset)
                    stream.write(values.tobytes())
                fragment[7] = checksum(values)
        return body

    edit_manifest(folder, fill)


def negative_squares(folder: Path) -> None:
    poison(folder, "exp_avg_sq", -1e-9)


def change_state(folder: Path) -> None:
    def without_position(body: Any) -> Any:
        del body["state"]["data"]["consumed"]
        return body

    edit_manifest(folder, without_position)


@pytest.mark.parametrize("harm", [flip, poison, negative_squares, change_state])
def test_a_run_without_a_usable_checkpoint_ends_and_keeps_what_it_has(harm: Any, run_dir: Path, corpus: Path) -> None:
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    for folder in (run_dir / "checkpoints").glob("step_*"):
        harm(folder)
    with pytest.raises(RuntimeError, match=r"InputError: .*checkpoints: none of its 2 checkpoints can be used"):
        run_world(2, train, config_of(corpus, run_dir, 11))
    assert (run_dir / "metrics.jsonl").read_bytes() == metrics
    assert len(list((run_dir / "checkpoints").glob("step_*"))) == 2


@pytest.mark.parametrize("harm", [flip, poison, change_state])
def test_an_older_one_that_is_whole_is_taken(harm: Any, run_dir: Path, corpus: Path) -> None:
    harm(run_dir / "checkpoints" / "step_00000007")
    assert run_world(1, train, config_of(corpus, run_dir, 8)) == ["finished"]
    assert [line["step"] for line in read_steps(run_dir / "metrics.jsonl") if "loss" in line] == list(range(1, 9))


@pytest.mark.parametrize("best", [np.nan, -np.inf])
def test_a_best_loss_that_is_no_number_is_none_and_does_no_harm(best: float, run_dir: Path) -> None:
    def change(body: Any) -> Any:
        body["state"]["trainer"]["best_validation_loss"] = best
        return body

    edit_manifest(run_dir / "checkpoints" / "step_00000007", change)
    reader = CheckpointReader(run_dir / "checkpoints" / "step_00000007")
    check_resumable(reader)
    assert trainer_state(reader)["best_validation_loss"] is None
    assert trainer_state(reader)["tokens"] > 0


def instead_of_a_folder(checkpoints: Path) -> None:
    checkpoints.write_text("")


def link_to_nowhere(checkpoints: Path) -> None:
    checkpoints.symlink_to(checkpoints.with_name("not mounted"))


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (instead_of_a_folder, "checkpoints is no folder"),
        (link_to_nowhere, "checkpoints: a link to a place that is not there"),
    ],
)
def test_a_place_that_cannot_be_looked_into_is_no_new_run(put: Any, said: str, run_dir: Path, corpus: Path) -> None:
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    shutil.rmtree(run_dir / "checkpoints")
    put(run_dir / "checkpoints")
    with pytest.raises(RuntimeError, match=f"InputError: .*{said}"):
        run_world(1, train, config_of(corpus, run_dir, 11))
    assert (run_dir / "metrics.jsonl").read_bytes() == metrics


def test_a_pointer_without_its_checkpoints_is_not_a_new_run(run_dir: Path, corpus: Path) -> None:
    for folder in (run_dir / "checkpoints").glob("step_*"):
        shutil.rmtree(folder)
    with pytest.raises(RuntimeError, match="'latest' names a checkpoint, but there is none"):
        run_world(1, train, config_of(corpus, run_dir, 11))


def train_on_nan(config: RunConfig) -> str:
    """One rank whose every loss is NaN."""
    from pretrain.engines.sequential import SequentialEngine

    whole = SequentialEngine._run_step

    def broken(engine: SequentialEngine, micro_batches: Any) -> None:
        engine.parameters[0].data.fill_(float("nan"))
        whole(engine, micro_batches)

    SequentialEngine._run_step = broken  # type: ignore[method-assign]
    return train(config)


def test_a_run_whose_every_step_was_refused_has_not_finished(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, tmp_path / "run", 5)
    config = replace(config, parallel=replace(config.parallel, zero_stage=0))
    assert run_world(1, train_on_nan, config) == ["gave up"]
    assert "no step of this start reached the weights" in (tmp_path / "run/attempts/0000/end.json").read_text()
    assert not (tmp_path / "run/checkpoints/step_00000005").exists()


def test_an_unreachable_remote_costs_its_copies_and_nothing_here(corpus: Path, tmp_path: Path) -> None:
    assert run_world(2, train, config_of(corpus, tmp_path / "run", 3)) == ["finished"] * 2
    told, _ = run_world(2, said_by_training, config_of(corpus, tmp_path / "run", 7, remote=NOBODY))
    assert f"finished: {tmp_path / 'run'}" in told
    assert f"WARNING: checkpoint.remote: {NOBODY} cannot be looked into" in told
    assert f"step_00000007 is whole, but has no copy in {NOBODY}: " in told
    folders = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert folders == ["latest", "step_00000006", "step_00000007"]
    for processes in (1, 2):  # a new run folder cannot know whether the run is there
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        with pytest.raises(RuntimeError, match=f"InputError: checkpoint.remote: {NOBODY} cannot be looked into"):
            run_world(processes, train, config_of(corpus, tmp_path / "new", 3, remote=NOBODY))
