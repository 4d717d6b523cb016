"""A new run from another run's checkpoint: its weights, exactly, also as another reading of the attention."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from data.config import DataConfig
from model.config import ModelConfig
from model.rope_scaling import RopeScaling
from pretrain.checkpoint.conversion import check_convertible
from pretrain.checkpoint.lineage import lineage_of
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import CheckpointConfig, OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
from tests.pretrain.checkpoint.edited import edit_manifest
from tests.pretrain.test_run import config_for, losses, train
from tests.world import run_world


@pytest.fixture(scope="module")
def origin(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A finished run of the default reading; every checkpoint kept."""
    config = config_for(corpus, tmp_path_factory.mktemp("origin"), checkpoint=CheckpointConfig(every=12, keep=0))
    run_world(1, train, config)
    return config


def branch_of(origin: RunConfig, run_dir: Path, at: str = "", **sections: object) -> RunConfig:
    settings = CheckpointConfig(every=0, branch_from=str(origin.run_folder / at))
    constant = replace(origin.schedule, final_ratio=1.0, warmup_steps=0)
    train_config = TrainConfig(steps=3)
    config = replace(origin, run_dir=str(run_dir), checkpoint=settings, schedule=constant, train=train_config)
    return replace(config, **sections)  # type: ignore[arg-type]


def test_other_sequence_length_and_rope_theta_start_where_the_origin_ended(origin: RunConfig, tmp_path: Path) -> None:
    data = replace(origin.data, sequence_length=64)
    scaling = RopeScaling("yarn", 64 / origin.data.sequence_length, origin.data.sequence_length)
    model = replace(origin.model, rope_theta=640000.0, rope_scaling=scaling)
    run_world(1, train, branch_of(origin, tmp_path, data=data, model=model))
    assert [step for step, _ in losses(tmp_path)] == [1, 2, 3]
    assert losses(tmp_path)[0][1] < losses(origin.run_folder)[10][1]


def test_a_branch_tells_of_its_origin_and_of_all_tokens_behind_its_weights(origin: RunConfig, tmp_path: Path) -> None:
    run_world(1, train, branch_of(origin, tmp_path, at="checkpoints/step_00000012", name="branch"))
    before = CheckpointReader(origin.run_folder / "checkpoints/step_00000012")
    after = CheckpointReader(tmp_path / "checkpoints/step_00000003")
    lineage, own = lineage_of(after), lineage_of(before)
    (parent,) = lineage.parents
    per_step = origin.batch.global_size * origin.data.sequence_length
    assert (parent.name, parent.step, parent.tokens) == (origin.name, 12, 12 * per_step)
    assert (parent.run, parent.software) == (own.run, own.software)
    assert parent.data == before.manifest.state["data"]["stages"][0]["datasets"]
    assert lineage.run not in (None, parent.run)
    assert lineage.tokens_ever(after.manifest.state["trainer"]["tokens"]) == 15 * per_step


@pytest.mark.parametrize("moments", [True, False])
def test_a_branch_that_stops_and_goes_on_is_the_one_never_stopped(
    moments: bool, origin: RunConfig, tmp_path: Path
) -> None:
    """Adam's bias correction counts the updates of the origin wherever its moments were taken over, and only there."""

    def run(name: str, *ends: int) -> list[tuple[int, float]]:
        for end in ends:
            config = branch_of(origin, tmp_path / name, at="checkpoints/step_00000012", train=TrainConfig(steps=end))
            optimizer = replace(origin.optimizer, beta2=0.999)
            checkpoint = replace(config.checkpoint, branch_moments=moments)
            run_world(1, train, replace(config, optimizer=optimizer, checkpoint=checkpoint))
        return losses(tmp_path / name)

    assert run("stopped", 4, 5, 9) == run("never", 9)


def test_another_optimizer_takes_the_weights_and_begins_with_moments_of_its_own(
    origin: RunConfig, tmp_path: Path
) -> None:
    """Its first loss is that of the branch that keeps the optimizer; the second comes from other updates."""
    config = branch_of(origin, tmp_path / "adamw")
    muon = OptimizerConfig(kind="muon", learning_rate=origin.optimizer.learning_rate)
    run_world(1, train, config)
    run_world(1, train, replace(config, run_dir=str(tmp_path / "muon"), optimizer=muon))
    kept, changed = losses(tmp_path / "adamw"), losses(tmp_path / "muon")
    assert changed[0] == kept[0]
    assert changed[1] != kept[1]


@pytest.fixture(scope="module")
def continued(origin: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The losses of a branch of the origin's own reading."""
    config = branch_of(origin, tmp_path_factory.mktemp("same"), at="checkpoints/step_00000012")
    run_world(1, train, config)
    return losses(config.run_folder)


READINGS = {
    "diff": {"attention": "diff"},
    "base-head": {"base": "head"},
    "down-head": {"down": "head"},
    "both-head": {"base": "head", "down": "head"},
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("tensor", [1, 2])
def test_a_converted_branch_computes_what_the_origin_computes(
    reading: str, tensor: int, origin: RunConfig, continued: list[tuple[int, float]], tmp_path: Path
) -> None:
    model = replace(origin.model, **READINGS[reading])
    other = branch_of(origin, tmp_path / "other", at="checkpoints/step_00000012", model=model)
    run_world(tensor, train, replace(other, parallel=ParallelConfig(tensor=tensor)))
    assert losses(tmp_path / "other")[0][1] == pytest.approx(continued[0][1], abs=1e-5)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ({}, {"num_layers": 3}, "model.num_layers: is 3"),
        ({"attention": "diff"}, {}, "model.attention: is shared_diff"),
        ({}, {"rank": 5}, "model.rank: is 5"),
        ({"base": "head"}, {"base": "layer"}, "model.base: is layer"),
    ],
)
def test_what_cannot_follow_is_refused_by_name(source: dict[str, object], target: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        check_convertible(ModelConfig(**source), ModelConfig(**target), "runs/a")  # type: ignore[arg-type]
    assert said in str(error.value)


def test_an_origin_that_is_none_is_named(origin: RunConfig, tmp_path: Path) -> None:
    config = branch_of(origin, tmp_path / "run", at="nothing", data=DataConfig(origin.data.train, sequence_length=32))
    with pytest.raises(RuntimeError, match="neither a checkpoint nor a run folder"):
        run_world(1, train, config)


def of_another_tokenizer(body: Any) -> Any:
    body["state"]["data"]["tokenizer"] = "0123456789abcdef"
    return body


def test_an_origin_of_another_tokenizer_is_refused(origin: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(origin.run_folder / "checkpoints" / "step_00000012", tmp_path / "origin")
    edit_manifest(tmp_path / "origin", of_another_tokenizer)
    config = branch_of(origin, tmp_path / "run")
    config = replace(config, checkpoint=replace(config.checkpoint, branch_from=str(tmp_path / "origin")))
    with pytest.raises(RuntimeError, match=r"branch_from: .* another tokenizer \(0123456789ab\) than data\.train has"):
        run_world(2, train, config)
