"""Corpora that the user keeps elsewhere: the training reads them there, and nothing else of it changes."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import parse_config
from pretrain.config import RunConfig
from scripts.retrieval.placing import corpus_names, placed

CONFIGS = ["configs/retrieval_cpu.yaml", "configs/retrieval_long_cpu.yaml"]


def read(path: str) -> RunConfig:
    return parse_config(RunConfig, ["--config", path], "test")


@pytest.mark.parametrize("training", CONFIGS)
def test_every_stage_reads_its_text_where_it_lies(training: str, tmp_path: Path) -> None:
    copy, before = tmp_path / "made" / "training.yaml", read(training)
    names = corpus_names(placed(training, tmp_path / "elsewhere", copy))
    after = read(str(copy))
    mixtures = [after.data.train, *(stage.train for stage in after.data.stages if stage.train)]
    assert [source.path for mixture in mixtures for source in mixture] == [
        str(tmp_path / "elsewhere" / name / "train") for name in names
    ]
    assert len(names) == 1 + len(before.data.stages)
    assert after.data.validation is not None
    assert Path(after.data.validation).relative_to(tmp_path / "elsewhere").name == "validation"
    assert replace(after, data=before.data) == before
    assert [stage.from_tokens for stage in after.data.stages] == [stage.from_tokens for stage in before.data.stages]


def test_its_own_folder_changes_nothing(tmp_path: Path) -> None:
    for training in CONFIGS:
        assert placed(training, Path("corpora/retrieval"), tmp_path / "copy.yaml") == read(training)
