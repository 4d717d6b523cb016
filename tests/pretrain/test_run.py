"""A run from its config to its folder: the same losses every time, whatever is killed when."""

import contextlib
import errno
import io
import os
import random
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse_config
from common.errors import InputError
from data.config import DataConfig, SourceConfig
from model.config import ModelConfig
from pretrain.checkpoint.layout import POINTER
from pretrain.checkpoint.writer import CheckpointWriter
from pretrain.config import (
    BatchConfig,
    CheckpointConfig,
    EvaluationConfig,
    MetricsConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from pretrain.run import pretrain
from pretrain.run_id import keep_run_id, read_run_id
from pretrain.run_lock import LOCK_FILE
from pretrain.step_lines import read_steps
from tests.world import run_world

STEPS = 30


def config_for(corpus: Path, run_dir: Path, **sections: object) -> RunConfig:
    config = RunConfig(
        name="test",
        run_dir=str(run_dir),
        model=ModelConfig(
            num_layers=2, hidden_size=32, ffn_hidden_size=64, num_heads=2, head_dim=8, rank=4, vocab_size=320
        ),
        data=DataConfig(
            train=[SourceConfig(str(corpus / "train"))], validation=str(corpus / "validation"), sequence_length=32
        ),
        parallel=ParallelConfig(zero_stage=1),
        batch=BatchConfig(global_size=8, micro_size=4),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        schedule=ScheduleConfig(warmup_steps=2),
        train=TrainConfig(steps=STEPS),
        checkpoint=CheckpointConfig(every=3, keep=2),
        evaluation=EvaluationConfig(every=12, batches=2),
        metrics=MetricsConfig(wandb=False, every=1, telemetry_every=7),
    )
    return replace(config, **sections)  # type: ignore[arg-type]


def losses(run_dir: Path) -> list[tuple[int, float]]:
    """(step, loss) of every training line; fails if a step stands twice."""
    lines = [(line["step"], line["loss"]) for line in read_steps(run_dir / "metrics.jsonl") if "loss" in line]
    assert [step for step, _ in lines] == sorted({step for step, _ in lines})
    return lines


def inside(run_dir: Path) -> dict[int, dict[str, object]]:
    """Numbers from inside the model, by step."""
    return {line["step"]: line["telemetry"] for line in read_steps(run_dir / "metrics.jsonl") if "telemetry" in line}


def train(config: RunConfig) -> str:
    """One rank; returns how the run ended."""
    return str(pretrain(config).value)


def train_until_killed(config: RunConfig, victim: int, lines: int, seconds: float) -> str:
    """As ``train``, but rank ``victim`` is killed ``seconds`` after ``lines`` more lines of metrics."""
    if int(os.environ["RANK"]) == victim:
        threading.Thread(target=_kill_self, args=(config.run_folder / "metrics.jsonl", lines, seconds)).start()
    return train(config)


def _kill_self(metrics: Path, lines: int, seconds: float) -> None:
    wanted = len(read_steps(metrics)) + lines
    while len(read_steps(metrics)) < wanted:
        time.sleep(0.002)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def never_stopped(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("never_stopped")
    assert run_world(2, train, config_for(corpus, run_dir)) == ["finished", "finished"]
    return run_dir


def test_the_run_folder_holds_what_the_design_promises(never_stopped: Path, corpus: Path) -> None:
    lines = read_steps(never_stopped / "metrics.jsonl")
    keys = {"step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds"}
    assert keys | {"model_flops_utilization"} <= set(lines[0])
    assert [line["step"] for line in lines if "validation_loss" in line] == [12, 24, 30]
    assert lines[-2]["loss"] < lines[0]["loss"] - 1
    assert list(inside(never_stopped)) == [7, 14, 21, 28, 30]
    assert (never_stopped / "loss.png").exists()
    assert keep_run_id(never_stopped) == read_run_id(never_stopped)[0]
    assert not (never_stopped / LOCK_FILE).exists()
    assert (never_stopped / "logs" / "rank_1.log").exists()
    assert (never_stopped / "checkpoints" / POINTER).read_text() == "step_00000030\n"
    assert sorted(p.name for p in (never_stopped / "checkpoints").glob("step_*")) == ["step_00000027", "step_00000030"]
    saved = parse_config(RunConfig, ["--config", str(never_stopped / "config.yaml")], "test")
    assert saved == config_for(corpus, never_stopped)


def test_the_same_seed_gives_the_same_losses_and_one_process_gives_them_too(
    never_stopped: Path, corpus: Path, tmp_path: Path
) -> None:
    run_world(2, train, config_for(corpus, tmp_path / "again"))
    assert losses(tmp_path / "again") == losses(never_stopped)
    assert inside(tmp_path / "again") == inside(never_stopped)
    run_world(1, train, config_for(corpus, tmp_path / "alone"))
    for (_, alone), (_, two) in zip(losses(tmp_path / "alone"), losses(never_stopped), strict=True):
        assert alone == pytest.approx(two, abs=1e-5)


def survive_kills(corpus: Path, run_dir: Path, kills: int, seed: int) -> None:
    """Kills a random rank at random moments, starting again each time; then lets the run finish."""
    dice = random.Random(seed)
    for _ in range(kills):
        victim, lines, seconds = dice.randrange(2), dice.randrange(1, 7), dice.uniform(0, 0.05)
        with pytest.raises(RuntimeError, match=r"died|Connection|closed"):
            run_world(2, train_until_killed, config_for(corpus, run_dir), victim, lines, seconds)
    assert set(run_world(2, train, config_for(corpus, run_dir))) == {"finished"}
    assert not list((run_dir / "checkpoints").glob("*.partial"))


def test_killed_at_random_moments_it_has_the_losses_of_the_run_never_stopped(
    never_stopped: Path, corpus: Path, tmp_path: Path
) -> None:
    survive_kills(corpus, tmp_path, kills=3, seed=5)
    assert losses(tmp_path) == losses(never_stopped)


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills(never_stopped: Path, corpus: Path, tmp_path: Path, seed: int) -> None:
    survive_kills(corpus, tmp_path, kills=5, seed=seed)
    assert losses(tmp_path) == losses(never_stopped)


def test_a_finished_run_says_so_and_a_longer_one_goes_on(never_stopped: Path, corpus: Path, tmp_path: Path) -> None:
    [said] = run_world(1, said_by_training, config_for(corpus, never_stopped))
    assert f"finished: {never_stopped}" in said
    assert "step" not in said.replace(f"{STEPS} steps; raise train.steps", "")
    shutil.copytree(never_stopped, tmp_path / "longer")
    config = config_for(corpus, tmp_path / "longer", train=TrainConfig(steps=STEPS + 2))
    assert run_world(1, train, config) == ["finished"]
    assert [step for step, _ in losses(tmp_path / "longer")][-3:] == [STEPS, STEPS + 1, STEPS + 2]


@pytest.mark.parametrize("attention", ["standard", "diff", "diff_v2"])
def test_every_kind_trains_with_one_key_changed(attention: str, corpus: Path, tmp_path: Path) -> None:
    config = config_for(corpus, tmp_path)
    model = replace(config.model, attention=attention)
    run_world(1, train, replace(config, model=model, parallel=ParallelConfig(zero_stage=0)))
    first, *_, last = losses(tmp_path)
    assert last[1] < first[1] - 1


def said_by_training(config: RunConfig) -> str:
    """What a rank prints while it trains; for `run_world`."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        train(config)
    return said.getvalue()


def train_on_a_disk_that_refuses(config: RunConfig) -> str:
    def refuse(writer: CheckpointWriter, file: Path, snapshot: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(file))

    CheckpointWriter._write_file = refuse  # type: ignore[assignment, method-assign]
    return train(config)


def test_a_checkpoint_that_cannot_be_written_is_loud_and_the_last_one_must_be(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="CheckpointError: checkpoint of step 30 failed on rank 0"):
        run_world(1, train_on_a_disk_that_refuses, config_for(corpus, tmp_path))
    assert len(losses(tmp_path)) == STEPS


def test_another_model_does_not_go_on_from_this_runs_checkpoint(never_stopped: Path, corpus: Path) -> None:
    config = config_for(corpus, never_stopped, train=TrainConfig(steps=40))
    with pytest.raises(RuntimeError, match=r"model\.rank: is 5, but .* was trained with 4"):
        run_world(1, train, replace(config, model=replace(config.model, rank=5)))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"data": DataConfig(train=[SourceConfig("/nowhere")])}, "/nowhere"),
        ({"batch": BatchConfig(global_size=8, micro_size=3)}, "batch.global_size"),
        ({"model": ModelConfig(vocab_size=64)}, "model.vocab_size: is 64"),
        ({"parallel": ParallelConfig(zero_stage=3, pipeline=2)}, "parallel"),
        ({"schedule": ScheduleConfig(warmup_steps=99)}, "schedule.warmup_steps"),
        ({"deepspeed": {"train_batch_size": 4}}, "deepspeed.train_batch_size: set batch.global_size instead"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    sections: dict[str, object], said: str, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        pretrain(config_for(corpus, tmp_path / "run", **sections))
    assert said in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_torn_shard_is_refused(corpus: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in (corpus / "train").iterdir():
        content = file.read_bytes()
        (torn / file.name).write_bytes(content[:-6] if file.name.endswith(".tokens") else content)
    data = DataConfig(train=[SourceConfig(str(torn))], sequence_length=32)
    with pytest.raises(InputError, match=r"00000\.tokens"):
        pretrain(config_for(corpus, tmp_path / "run", data=data))
