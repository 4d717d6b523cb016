"""The first lines of a run say what is trained, how far, what will change on the way, and where to look."""

from dataclasses import replace
from pathlib import Path

from data.config import DataConfig, RampConfig, SourceConfig, StageConfig
from data.stream import open_stream
from model.counts import parameter_counts
from pretrain.config import BatchConfig, RunConfig, TrainConfig
from pretrain.opening import opening_lines, sinks_line
from pretrain.sinks.console import Console
from tests.pretrain.test_run import config_for


def staged(corpus: Path, tmp_path: Path) -> RunConfig:
    """Steps 1 to 3 of 4 samples, then of 8: samples of 32 tokens, from token 896 on of 64; a mixture from 2,944 on."""
    train, held_out = SourceConfig(str(corpus / "train"), 3.0), SourceConfig(str(corpus / "validation"), 1.0)
    mixtures = StageConfig(2944, [train, held_out]), StageConfig(10**9, [train])
    stages = [StageConfig(896, sequence_length=64), *mixtures]
    data = DataConfig([train], str(corpus / "validation"), sequence_length=32, stages=stages)
    batch = BatchConfig(global_size=8, micro_size=4, ramp=[RampConfig(3, 4)])
    return replace(config_for(corpus, tmp_path / "run"), data=data, batch=batch, train=TrainConfig(steps=11))


def test_they_say_size_folder_tokens_and_stages(corpus: Path, tmp_path: Path) -> None:
    config = staged(corpus, tmp_path)
    lines = list(opening_lines(config, open_stream(config.data, config.seed), 0))
    tokens = (12 + 16) * 32 + (6 * 8) * 64  # steps 1 to 3 and two more, then six
    parameters = sum(parameter_counts(config.model).values())
    assert lines[0] == f"{parameters:,} parameters (shared_diff); run folder: {tmp_path / 'run'}"
    assert lines[1:] == [
        f"starting at step 0 of 11; {tokens:,} tokens to go",
        "data.stages[0], from step 6 on: samples of 64 tokens",
        f"data.stages[1], from step 10 on: 75.0% {corpus}/train, 25.0% {corpus}/validation",
        f"data.stages[2], not in this run, which ends before: 100.0% {corpus}/train",
    ]


def test_a_run_that_goes_on_says_what_is_left(corpus: Path, tmp_path: Path) -> None:
    config = staged(corpus, tmp_path)
    lines = list(opening_lines(config, open_stream(config.data, config.seed), 7))
    assert lines[1] == f"resuming at step 7 of 11; {4 * 8 * 64:,} tokens to go"
    assert [line.partition(",")[0] for line in lines[2:]] == ["data.stages[1]", "data.stages[2]"]


def test_sinks_are_named() -> None:
    assert sinks_line([Console(3), Console(3)]) == "metrics: console, console"
