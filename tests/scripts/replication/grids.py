"""A small study for the tests of grids, and rows that nobody measured."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.cli import config_from_values
from scripts.replication.config import StudyConfig
from scripts.replication.plans import Plan
from scripts.replication.rows import Row, row_of

MODEL = {"ffn_hidden_size": 24, "num_heads": 1, "head_dim": 8, "rank": 3, "vocab_size": 320}
VALUES: dict[str, Any] = {
    "name": "made_up",
    "work": "work",
    "results": "results",
    "page": "page.md",
    "corpora": [{"name": "text", "input": ["stdlib"], "vocab_size": 320}],
    "sizes": [
        {"name": "s1", "model": {**MODEL, "num_layers": 1, "hidden_size": 16}, "tokens_per_second": 100.0},
        {"name": "s2", "model": {**MODEL, "num_layers": 2, "hidden_size": 24}, "tokens_per_second": 50.0},
        {"name": "s3", "model": {**MODEL, "num_layers": 3, "hidden_size": 40}, "tokens_per_second": 25.0},
    ],
    "columns": [
        {"name": "plain", "model": {"attention": "standard"}},
        {"name": "older", "model": {"attention": "diff"}},
        {"name": "ours", "model": {"attention": "shared_diff"}},
    ],
    "roles": {"baseline": "plain", "predecessor": "older", "subjects": ["ours"]},
    "variants": [{"name": "no_head_norm", "model": {"head_norm": False}, "columns": ["older", "ours"]}],
    "training": {"data": {"sequence_length": 8}, "batch": {"global_size": 3, "micro_size": 3}},
    "parts": [
        {
            "name": "scaling",
            "about": "Losses.",
            "measures": "validation_loss",
            "stages": [{"corpus": "text"}],
            "columns": ["plain", "older", "ours"],
            "sizes": ["s1", "s2", "s3"],
            "tokens": [240, 480, 1200],
            "seeds": [1, 2, 3],
            "sweep": {"rates": [0.001, 0.002, 0.004], "size": "s1", "seed": 77},
        },
        {
            "name": "ablations",
            "about": "What parts are worth.",
            "measures": "validation_loss",
            "stages": [{"corpus": "text"}],
            "columns": ["plain", "older", "ours"],
            "sizes": ["s2"],
            "tokens": [480],
            "seeds": [5, 7],
            "variants": ["no_head_norm"],
            "rates_from": "scaling",
        },
    ],
}


def study(folder: Path, **changes: Any) -> StudyConfig:
    """The study, in ``folder``."""
    places = {"work": str(folder / "work"), "results": str(folder / "results"), "page": str(folder / "page.md")}
    return config_from_values(StudyConfig, {**VALUES, **places, **changes}, "test")


def made_up(plan: Plan, loss: Callable[[Plan], float | None]) -> Row:
    """The row of a cell that nobody ran."""
    figures = {"validation_loss": loss(plan), "trained_tokens": plan.most_tokens}
    return row_of(plan, "validation_loss", figures, {"cell": 7.0, "training": 4.0})


def with_part(config: StudyConfig, name: str, **changes: Any) -> StudyConfig:
    """The study with other settings of one part."""
    parts = [dataclasses.replace(part, **changes) if part.name == name else part for part in config.parts]
    return dataclasses.replace(config, parts=parts)


def finish_run(folder: Path, steps: int, loss: float) -> None:
    """What a run leaves of its losses, as if it had ended."""
    folder.mkdir(parents=True)
    lines = [
        {"step": steps, "tokens": 24 * steps, "loss": loss, "step_seconds": 0.5},
        {"step": steps, "validation_loss": loss},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
