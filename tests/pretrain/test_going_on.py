"""A run that is started again with other settings, or that refused steps, goes on as if it had never stopped."""

import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.cli import parse_config
from common.software import CHANGED, commit, versions
from data.__main__ import main as data_command
from data.config import RampConfig, SkipConfig, StageConfig
from data.stream import open_stream
from pretrain.checkpoint.layout import step_folder
from pretrain.checkpoint.lineage import Begun, Software, lineage_of
from pretrain.checkpoint.manifest_check import read_manifest
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.retention import Retention
from pretrain.config import (
    BatchConfig,
    CheckpointConfig,
    EvaluationConfig,
    OptimizerConfig,
    ResilienceConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)
from pretrain.resilience.spikes import SpikeGuard
from pretrain.run_id import read_run_id
from pretrain.step_lines import read_steps
from tests.pretrain.test_run import config_for, losses, train, train_until_killed
from tests.world import run_world


def sized(corpus: Path, run_dir: Path, steps: int, global_size: int, *ramp: tuple[int, int]) -> RunConfig:
    return config_for(
        corpus,
        run_dir,
        batch=BatchConfig(global_size, 2, [RampConfig(*entry) for entry in ramp]),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2),
        train=TrainConfig(steps=steps),
        checkpoint=CheckpointConfig(every=0, keep=1, keep_tokens=1700),
        evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
    )


@pytest.fixture(scope="module")
def resumed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 steps of 4 samples, 4 of 12 (to step 11), then 3 of 8."""
    run_dir = tmp_path_factory.mktemp("resumed")
    for steps, global_size in ((7, 4), (11, 12), (14, 8)):
        assert set(run_world(2, train, sized(corpus, run_dir, steps, global_size))) == {"finished"}
    return run_dir


def test_a_changed_batch_size_sees_each_sample_once_like_a_run_planned_so(
    resumed: Path, corpus: Path, tmp_path: Path
) -> None:
    run_world(2, train, sized(corpus, tmp_path, 14, 8, (7, 4), (4, 12)))
    assert losses(resumed) == losses(tmp_path)
    tokens = [line["tokens"] for line in read_steps(resumed / "metrics.jsonl") if "tokens" in line]
    assert [tokens[step - 1] for step in (7, 11, 14)] == [28 * 32, 76 * 32, 100 * 32]
    manifest = read_manifest(step_folder(resumed / "checkpoints", 14))
    assert manifest.state["data"]["consumed"] == 100
    saved = yaml.safe_load((resumed / "config.yaml").read_text())
    assert saved["batch"]["ramp"] == [{"steps": 7, "global_size": 4}, {"steps": 4, "global_size": 12}]


def test_trace_and_plan_know_the_past(resumed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(resumed / "config.yaml")
    assert not data_command(["plan", "--config", config, "--json"])
    assert json.loads(capsys.readouterr().out)["samples"] == 100
    saved = parse_config(RunConfig, ["--config", config], "test")
    order = open_stream(saved.data, saved.seed).order
    for number, step in ((0, 0), (27, 6), (28, 7), (75, 10), (76, 11), (99, 13)):
        token = int(order.locate(np.array([number])).sample[0]) * 32 + 5
        data_command(["trace", "--config", config, "--token", str(token), "--done", "11", "--json"])
        (seen,) = json.loads(capsys.readouterr().out)
        assert (seen["global_sample"], seen["step"]) == (number, step)
        assert seen["when"] == ("past" if step < 11 else "future")


def test_every_start_stays_on_record(resumed: Path) -> None:
    starts = sorted((resumed / "starts").glob("*.yaml"))
    assert [path.name for path in starts] == ["0001.yaml", "0002.yaml", "0003.yaml"]
    assert [re.search(r"from step (\d+)", path.read_text())[1] for path in starts] == ["0", "7", "11"]  # type: ignore[index]
    sizes = [yaml.safe_load(path.read_text())["batch"]["global_size"] for path in starts]
    assert sizes == [4, 12, 8]


def test_with_its_command_commit_versions_and_hosts(resumed: Path) -> None:
    records = [json.loads((resumed / "starts" / f"{number:04d}.json").read_text()) for number in (1, 2, 3)]
    assert [record["step"] for record in records] == [0, 7, 11]
    for record in records:
        assert Path(record["command"][0]).name.startswith("python") and len(record["command"]) > 1
        assert record["commit"].removesuffix(CHANGED) == commit().removesuffix(CHANGED)  # it may be edited meanwhile
        assert record["versions"] == versions()
        assert record["hosts"] == [socket.gethostname()] * 2
        assert record["attempt"] == 0 and record["topology"]


def test_checkpoints_tell_the_same_of_the_newest_start_and_of_changes_between(resumed: Path) -> None:
    lineage = lineage_of(CheckpointReader(resumed / "checkpoints" / "step_00000014"))
    newest = json.loads((resumed / "starts" / "0003.json").read_text())
    assert lineage.run == read_run_id(resumed)[0]
    assert lineage.software[0] == Software(0, lineage.software[0].commit, versions())
    assert len({software.commit for software in lineage.software}) == len(lineage.software)
    assert lineage.begun == Begun(newest["command"], [socket.gethostname()])
    assert lineage.parents == []


def test_checkpoints_kept_by_tokens_go_by_the_tokens_that_were_trained(resumed: Path) -> None:
    """A milestone every 1,700 tokens: none by step 7 (896 tokens), one by step 11 (2,432), none by step 14 (3,200)."""
    tokens = {7: 896, 11: 2432, 14: 3200}
    retention = Retention(keep=1, keep_every=0, keep_tokens=1700, tokens_at=lambda step: tokens.get(step, 0))
    assert retention.expired([7, 11, 14]) == [7]
    kept = sorted(path.name for path in (resumed / "checkpoints").glob("step_*"))
    assert kept == ["step_00000011", "step_00000014"]


def stage_of_longer_samples(corpus: Path, run_dir: Path, **sections: object) -> RunConfig:
    """20 samples of 32 tokens (5 steps of 4), then of 48."""
    config = sized(corpus, run_dir, 13, 4)
    data = replace(config.data, stages=[StageConfig(from_tokens=640, sequence_length=48)])
    return replace(config, data=data, **sections)


def test_a_longer_sequence_inside_a_batch_of_the_new_size_is_refused_at_the_start_and_a_ramp_mends_it(
    corpus: Path, tmp_path: Path
) -> None:
    """12 samples by step 3; batches of 6 from there would hold samples 18 to 23, and 20 is the first long one."""

    def run(name: str, steps: int, batch: BatchConfig) -> None:
        config = stage_of_longer_samples(corpus, tmp_path / name, train=TrainConfig(steps=steps), batch=batch)
        run_world(1, train, replace(config, evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False)))

    run("stopped", 3, BatchConfig(4, 2))
    with pytest.raises(RuntimeError, match=r"inside the global batch of step 4, after 2 of its 6 samples"):
        run("stopped", 9, BatchConfig(6, 2))
    run("stopped", 4, BatchConfig(6, 2))  # the border is not reached
    run("never", 9, BatchConfig(6, 2, [RampConfig(3, 4), RampConfig(1, 6), RampConfig(1, 2)]))
    run("stopped", 9, BatchConfig(6, 2, [RampConfig(4, 4), RampConfig(1, 2)]))
    assert losses(tmp_path / "stopped") == losses(tmp_path / "never")


def test_sizes_that_do_not_divide_are_refused_also_where_an_older_checkpoint_must_do(
    corpus: Path, tmp_path: Path
) -> None:
    """The newest, of step 8, has the steps of 2 samples behind it; damaged, it leaves steps 4 and 5 to come."""

    def config(steps: int, micro_size: int) -> RunConfig:
        batch = BatchConfig(4, micro_size, [RampConfig(6, 2)])
        return replace(sized(corpus, tmp_path, steps, 4), batch=batch, checkpoint=CheckpointConfig(every=4, keep=0))

    run_world(1, train, config(8, 2))
    weights = tmp_path / "checkpoints" / "step_00000008" / "rank_00000.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"batch\.ramp: must be a multiple .* = 4, is 2"):
        run_world(1, train, config(9, 4))
    run_world(1, train, config(9, 2))
    assert len(losses(tmp_path)) == 9


def test_tokens_are_counted_by_each_stages_own_length(corpus: Path) -> None:
    config = stage_of_longer_samples(corpus, Path("unused"))
    data = replace(config.data, skip=[SkipConfig(3, 7), SkipConfig(25, 26)])
    stream = open_stream(data, config.seed)
    lengths = [stream.fetch(np.array([number])).shape[1] - 1 for number in range(60)]
    assert sorted(set(lengths)) == [32, 48]
    assert [stream.tokens_before(count) for count in range(60)] == [sum(lengths[:count]) for count in range(60)]


def train_refusing_a_third(config: RunConfig) -> str:
    """One rank whose guard refuses steps by the last digits of their loss: the same ones in every life."""
    _refuse_a_third()
    return train(config)


def train_refusing_a_third_until_killed(config: RunConfig, victim: int, lines: int) -> str:
    _refuse_a_third()
    return train_until_killed(config, victim, lines, 0.0)


def _refuse_a_third() -> None:
    def reason(guard: SpikeGuard, loss: float, grad_norm: float) -> str | None:
        return "the test says so" if int(loss * 1e6) % 3 == 0 else None

    SpikeGuard.reason_to_skip = reason  # type: ignore[method-assign]


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_run_with_refused_steps_killed_three_times_is_the_one_never_stopped(
    zero_stage: int, corpus: Path, tmp_path: Path
) -> None:
    def config(run_dir: Path) -> RunConfig:
        whole = config_for(
            corpus,
            run_dir,
            optimizer=OptimizerConfig(learning_rate=3e-3, beta2=0.999),
            schedule=ScheduleConfig(kind="wsd", warmup_steps=2, decay_steps=5),
            train=TrainConfig(steps=29),
            checkpoint=CheckpointConfig(every=7, keep=2),
            evaluation=EvaluationConfig(every=0, batches=1, ar_hits=False),
            resilience=ResilienceConfig(max_skips=100_000),
        )
        return replace(whole, parallel=replace(whole.parallel, zero_stage=zero_stage))

    run_world(2, train_refusing_a_third, config(tmp_path / "never"))
    lines = read_steps(tmp_path / "never" / "metrics.jsonl")
    assert sum(not line["applied"] for line in lines if "applied" in line) >= 5
    for victim, after in ((1, 11), (0, 9), (1, 8)):
        with pytest.raises(RuntimeError, match=r"died|Connection|closed"):
            run_world(2, train_refusing_a_third_until_killed, config(tmp_path / "killed"), victim, after)
    run_world(2, train_refusing_a_third, config(tmp_path / "killed"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "never")
