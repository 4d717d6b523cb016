"""Runs and exports that an earlier version made and that every later one must read: kept beside this file.

In: a folder. Out: in it `corpus`, for every kind of attention `KIND/run` (a checkpoint after 3 of 5 steps) and
`KIND/export`, and in `expected.json` what the version that made them computed from them. Always: `made/`, beside this
file, is never made anew; it stands for what users have on their disks (`python -m tests.old.runs FOLDER` makes one).
"""

import dataclasses
import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.config import DataConfig, SourceConfig
from data.prepare import PrepareConfig, prepare
from model.config import ModelConfig
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
from pretrain.step_lines import read_steps
from scripts.export import ExportConfig, export
from scripts.hub.check import folder_logits
from tests.world import run_world

MADE = Path(__file__).parent / "made"
SMALL = ModelConfig(
    num_layers=2, hidden_size=20, ffn_hidden_size=36, num_heads=2, head_dim=8, rank=3, vocab_size=280, rope_theta=700.0
)
KINDS = {
    "standard": dataclasses.replace(SMALL, attention="standard"),
    "diff": dataclasses.replace(SMALL, attention="diff", tie_embeddings=False),
    "diff_v2": dataclasses.replace(SMALL, attention="diff_v2", num_heads=4, num_kv_heads=2),
    "shared_diff": dataclasses.replace(SMALL, attention="shared_diff"),
    "shared_diff-head-head": dataclasses.replace(SMALL, attention="shared_diff", base="head", down="head"),
}
KEPT, STEPS = 3, 5
TOKENS = torch.randint(256, (2, 29), generator=torch.Generator().manual_seed(11))


def config_of(kind: str, corpus: Path, run_dir: Path, steps: int) -> RunConfig:
    """The run of a kind, to its last or to an earlier step."""
    return RunConfig(
        name=kind,
        run_dir=str(run_dir),
        model=KINDS[kind],
        data=DataConfig(
            train=[SourceConfig(str(corpus / "train"))], validation=str(corpus / "validation"), sequence_length=24
        ),
        parallel=ParallelConfig(zero_stage=1),
        batch=BatchConfig(global_size=6, micro_size=2),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2),
        train=TrainConfig(steps=steps),
        checkpoint=CheckpointConfig(every=0, asynchronous=False),
        evaluation=EvaluationConfig(every=0, batches=2, ar_hits=False),
        metrics=MetricsConfig(wandb=False, every=1),
    )


def train(*configs: RunConfig) -> list[list[dict[str, Any]]]:
    """Runs them, one after the other, in a world of one process; returns the metrics of each."""
    run_world(1, train_all, configs)
    return [read_steps(config.run_folder / "metrics.jsonl") for config in configs]


def train_all(configs: Sequence[RunConfig]) -> None:
    """For `run_world`."""
    for config in configs:
        pretrain(config)


def losses(lines: list[dict[str, Any]], after: int) -> dict[str, float]:
    """What is compared of the steps behind ``after``."""
    keys = ("loss", "grad_norm", "validation_loss")
    return {
        f"{key} {line['step']}": line[key] for line in lines for key in keys if key in line and line["step"] > after
    }


def logits(folder: Path) -> list[float]:
    """Some of an export's logits on fixed tokens."""
    with torch.no_grad():
        found: list[float] = folder_logits(folder, TOKENS, streamed=False)[:, ::7, ::31].flatten().tolist()
    return found


def main(folder: Path) -> None:
    """Makes everything anew in ``folder``."""
    corpus, expected = folder / "corpus", {}
    _prepare(corpus)
    for kind in KINDS:
        run = folder / kind / "run"
        train(config_of(kind, corpus, run, KEPT))
        export(ExportConfig(run=str(run), output=str(folder / kind / "export")))
        whole = shutil.copytree(run, folder / "whole", dirs_exist_ok=True)
        (lines,) = train(config_of(kind, corpus, Path(whole), STEPS))
        expected[kind] = {"losses": losses(lines, KEPT), "logits": logits(folder / kind / "export")}
        shutil.rmtree(whole)
        for code in (folder / kind / "export").glob("*.py"):
            code.unlink()  # ours of today reads the folder; no code of the folder runs
        for name in ("loss.png", "logs", "attempts", "starts", "run.lock"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def _prepare(output: Path) -> None:
    dice = random.Random(5)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "if", "else", "return"]
    texts = output.with_suffix(".jsonl")
    output.parent.mkdir(parents=True, exist_ok=True)
    texts.write_text("".join(json.dumps({"text": " ".join(dice.choices(words, k=40))}) + "\n" for _ in range(90)))
    prepare(PrepareConfig(input=[str(texts)], output=str(output), vocab_size=280))
    texts.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
