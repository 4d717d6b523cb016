"""`plan`: what a run will see, and everything that is wrong, before it starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batch import BatchConfig
from data.config import DataConfig, SkipConfig, SourceConfig, StageConfig
from data.outlook import outlook_of, print_outlook
from data.run_order import ModelOrder, RunOrder, TrainOrder
from data.stream import open_stream
from tests.data.helpers import random_tokens, write_dataset


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    sizes = (30_000, 9_000, 4_000)
    return [str(write_dataset(tmp_path / str(n), [random_tokens(size, n)])) for n, size in enumerate(sizes)]


def run(train: list[SourceConfig], steps: int = 100, **settings: Any) -> RunOrder:
    data = DataConfig(train, sequence_length=50, **settings)
    return RunOrder(1, data, BatchConfig(8, 2), TrainOrder(steps), ModelOrder(1000))


def test_tokens_and_epochs_are_those_of_the_stream(folders: list[str]) -> None:
    config = run(
        [SourceConfig(folders[0], 3.0), SourceConfig(folders[1])],
        stages=[StageConfig(20_000, [SourceConfig(folders[1]), SourceConfig(folders[2])])],
    )
    plan = outlook_of(config)
    places = open_stream(config.data, 1).order.locate(np.arange(800))
    assert (plan.samples, plan.tokens, plan.problems, plan.remarks) == (800, 40_000, [], [])
    for number, source in enumerate(plan.sources):
        seen = 50 * np.count_nonzero(places.source == number)
        assert source.tokens_seen == seen
        assert source.epochs == pytest.approx(seen / (30_000, 9_000, 4_000)[number])
    assert [(stage.first_sample, stage.samples) for stage in plan.stages] == [(0, 400), (400, 400)]
    assert plan.stages[0].weights == {folders[0]: 0.75, folders[1]: 0.25}


def test_everything_that_is_wrong_is_listed(folders: list[str], tmp_path: Path) -> None:
    other = str(write_dataset(tmp_path / "other", [random_tokens(5000, 9)], fingerprint="0" * 64, vocab_size=2000))
    torn = Path(folders[0]) / "00000.tokens"
    torn.write_bytes(torn.read_bytes()[:-2])
    (Path(folders[1]) / "00000.tokens").unlink()
    plan = outlook_of(
        run(
            [SourceConfig(path) for path in [*folders, other]],
            validation=other,
            stages=[StageConfig(10_050, sequence_length=25)],
        )
    )
    expected = [
        "0/00000.tokens: 59998 bytes, expected 60000: truncated",
        "1/00000.tokens: no such file",
        "the tokenizer of",
        "model.vocab_size: is 1000, but the tokens of",
        "data.stages: the sequence length changes inside the global batch of step 25",
        "data.validation:",
    ]
    assert len(plan.problems) == len(expected)
    for problem, part in zip(plan.problems, expected, strict=True):
        assert part in problem


def test_what_is_odd_is_remarked(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plan = outlook_of(
        run(
            [SourceConfig(folders[0], 1.0), SourceConfig(folders[1], 1e-9), SourceConfig(folders[2], 2.0)],
            stages=[StageConfig(10**9, sequence_length=100)],
            skip=[SkipConfig(10, 19)],
        )
    )
    assert [remark.replace(folders[1], "1").replace(folders[2], "2") for remark in plan.remarks] == [
        "1: no sample of it comes up in 100 steps: its weight is too small",
        "2: every token is seen 6.8 times",
        "1: its share 3.33e-10 is rounded to 1 of 16777216 samples",
        "data.stages[0] begins after the last step",
        "1: its share 3.33e-10 is rounded to 1 of 16777216 samples",
        "10 samples are skipped",
    ]
    print_outlook(plan)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100 steps, 800 samples, 40,500 tokens"
    assert sum(line.startswith("remark: ") for line in lines) == 6
