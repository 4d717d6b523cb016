"""Exports of checkpoints that many ranks wrote: the folder has the loss that the ranks together had."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data.config import SourceConfig
from pretrain.checkpoint.state import local_fragments
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter, writer_settings
from pretrain.config import RunConfig
from scripts.export import ExportConfig, export
from scripts.hub.check import folder_logits
from tests.parallel import training
from tests.parallel.training import SyntheticTokens, run_steps, start_engine, variant
from tests.scripts.conftest import small_tokenizer
from tests.world import run_world

STEPS = 2
TOPOLOGIES = {
    "tp2-pp2-zero1": (4, {"tensor": 2, "pipeline": 2, "zero_stage": 1}),
    "zero3": (2, {"zero_stage": 3}),
}
MODELS = {
    "standard": {"attention": "standard"},
    "diff": {"attention": "diff", "tie_embeddings": False},
    "diff_v2": {"attention": "diff_v2"},
    "shared-layer-layer": {"base": "layer", "down": "layer"},
    "shared-layer-head": {"base": "layer", "down": "head"},
    "shared-head-layer": {"base": "head", "down": "layer"},
    "shared-head-head": {"base": "head", "down": "head"},
}


def config_of(model: str, parallel: dict[str, object], folder: Path) -> RunConfig:
    sections = {"model": {"vocab_size": 320, **MODELS[model]}, "parallel": parallel, "batch": {"micro_size": 4}}
    sections["checkpoint"] = {"asynchronous": False}
    config = variant(**sections)  # type: ignore[arg-type]
    data = replace(config.data, train=[SourceConfig(str(folder / "corpus"))])
    return replace(config, data=data, run_dir=str(folder / model))


def train_and_save(configs: list[RunConfig]) -> list[float]:
    """Trains each model for some steps, saves it, and returns the losses of the first batch after that."""
    losses = []
    for number, config in enumerate(configs):
        if number == 1:  # the process groups are there already
            training.connect = lambda topology: None  # type: ignore[assignment]
        engine, feed = start_engine(config)
        run_steps(engine, feed, 0, STEPS)
        writer = CheckpointWriter(
            config.run_folder / "checkpoints", engine.topology, writer_settings(config, run_id="")
        )
        facts = CheckpointFacts(STEPS, asdict(config), {}, engine.topology.describe())
        assert writer.save(list(local_fragments(engine)), facts) is None
        losses.append(engine.evaluate(next(iter(feed.steps(0, 1)))).loss)
    return losses


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_exported_loss_is_the_one_that_the_ranks_had(name: str, tmp_path: Path) -> None:
    processes, parallel = TOPOLOGIES[name]
    small_tokenizer().save(tmp_path / "corpus")
    configs = [config_of(model, parallel, tmp_path) for model in MODELS]
    expected = run_world(processes, train_and_save, configs)[0]
    tokens = torch.from_numpy(SyntheticTokens(320, 16).fetch(np.arange(8)))
    for model, config, loss in zip(MODELS, configs, expected, strict=True):
        for weights in ("factored", "merged") if model.startswith("shared") else ("factored",):
            output = tmp_path / "exports" / f"{model}-{weights}"
            export(ExportConfig(str(config.run_folder), str(output), weights=weights))  # type: ignore[arg-type]
            with torch.no_grad():
                logits = folder_logits(output, tokens[:, :-1], streamed=False)
            found = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
            assert found == pytest.approx(loss, abs=1e-5), f"{model} {weights} from {name}"
