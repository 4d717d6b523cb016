"""Evaluations while a run trains, on data that knows less of itself than ours."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.adopt import AdoptConfig, adopt
from data.config import CacheConfig
from data.source import open_source
from pretrain.config import EvaluationConfig, TrainConfig
from pretrain.step_lines import read_steps
from scripts.reporting.page import report_page
from scripts.reporting.runs import read_run
from scripts.summary import summary
from tests.pretrain.test_run import config_for, said_by_training, train
from tests.world import run_world


def adopted(prepared: Path, folder: Path) -> str:
    """The tokens of a prepared corpus as a flat file, whose bytes of text nobody knows."""
    source = open_source(str(prepared), CacheConfig())
    folder.mkdir()
    np.save(folder / "tokens.npy", source.reader.read(0, source.manifest.tokens).astype("<u4"))
    adopt(AdoptConfig([str(folder / "tokens.npy")], str(folder / "shards"), str(prepared), workers=1))
    return str(folder / "shards")


def test_an_adopted_corpus_has_a_loss_and_no_bits_per_byte(corpus: Path, tmp_path: Path) -> None:
    evaluation = EvaluationConfig(every=2, batches=2, ar_hits=True)
    ours = config_for(corpus, tmp_path / "ours", train=TrainConfig(steps=3), evaluation=evaluation)
    data = replace(ours.data, validation=adopted(corpus / "validation", tmp_path / "adopted"))
    theirs = replace(ours, run_dir=str(tmp_path / "theirs"), data=data)
    assert run_world(2, train, ours) == ["finished"] * 2
    said, _ = run_world(2, said_by_training, theirs)
    found, known = (
        [line for line in read_steps(config.run_folder / "metrics.jsonl") if "validation_loss" in line]
        for config in (theirs, ours)
    )
    assert [line["step"] for line in found] == [2, 3]
    assert [line["validation_loss"] for line in found] == [line["validation_loss"] for line in known]
    assert all(line["validation_bits_per_byte"] is None for line in found)
    assert f"validation loss {found[-1]['validation_loss']:.4f}  perplexity" in said
    assert "bits/byte" not in said
    assert f"{found[-1]['validation_loss']:.4f} nats per token" in "\n".join(summary(theirs.run_folder, None))
    pages = [report_page([read_run(config.run_folder)]) for config in (ours, theirs)]
    assert ["<td>bits per byte</td>" in page for page in pages] == [True, False]
