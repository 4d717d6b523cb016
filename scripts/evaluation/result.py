"""What a task hands back, and the JSON file of an evaluation.

In: estimates, details, a picture. Out: one JSON document for all tasks, pictures beside it.
Always: a task's settings, seed and counts stand beside its numbers; an existing file keeps the tasks that were not run,
and evaluations that end at once lose nothing of each other's.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.file_lock import only_holder
from common.files import finite, read_json, write_atomically, write_json
from common.typed import check_complete, check_section, shortened
from common.urls import values_without_credentials
from scripts.evaluation.statistics import Estimate

LONGEST_WRITE = 120.0
"""seconds that another evaluation may take to add its results"""


@dataclass(frozen=True)
class TaskResult:
    """One task on one model."""

    metrics: Mapping[str, Estimate]
    """headline numbers"""
    settings: Mapping[str, Any]
    """what was run: sizes, counts, sources"""
    details: Mapping[str, Any] = field(default_factory=dict)
    """tables behind the headline"""
    draw: Callable[[Any], None] | None = None
    """draws the task's picture into a matplotlib figure"""
    text: str | None = None
    """what a person reads, such as a sample of text"""

    def to_json(self, seed: int) -> dict[str, Any]:
        """As JSON: NaN becomes null."""
        document = {
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "settings": dict(self.settings),
            "details": dict(self.details),
            "seed": seed,
        }
        return dict(finite(document | ({"text": self.text} if self.text is not None else {})))


@dataclass(frozen=True)
class _SavedEstimate:
    value: float | None
    low: float | None
    high: float | None
    count: int
    method: str


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """The tasks of a results file, as ``TaskResult.to_json`` made them.

    Raises:
        InputError: it is not such a file.
    """
    document = read_json(path, "evaluation")
    tasks = document.get("tasks") if isinstance(document, dict) else None
    if not isinstance(tasks, dict):
        raise InputError(f"{path}: not the results of an evaluation (no tasks)")
    for name, task in tasks.items():
        where = f"{path}: task '{shortened(name)}'"
        metrics = task.get("metrics") if isinstance(task, dict) else None
        if not isinstance(metrics, dict) or not isinstance(task.get("picture"), str | None):
            raise InputError(f"{where}: expected metrics, and a picture's name if there is one")
        for metric, estimate in metrics.items():
            check_section(_SavedEstimate, estimate, f"{where}: {shortened(metric)}")
            check_complete(_SavedEstimate, estimate, f"{where}: {shortened(metric)}")
    return tasks


def read_model(path: Path) -> dict[str, Any]:
    """What a results file says about its model; empty where it says nothing.

    Raises:
        InputError: it is not readable.
    """
    document = read_json(path, "evaluation")
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, dict) else {}


def check_same_model(path: Path, model: Mapping[str, Any]) -> None:
    """Refuses to add the results of ``model`` to those of another one; the path alone does not say which it was.

    Raises:
        InputError: ``path`` holds another model's results.
    """
    kept = read_model(path) if path.exists() else {}
    keys = ("checkpoint", "dtype") if {"checkpoint"} <= kept.keys() & model.keys() else ("name", "parameters", "dtype")
    differing = next((key for key in keys if key in kept and kept[key] != model.get(key)), None)
    if differing is not None:
        was, now = (shortened(str(value)) for value in (kept[differing], model.get(differing)))
        raise InputError(
            f"--output {path}: holds results of another model ({differing} {was}, not {now}); name another file"
        )


def save_results(path: Path, model: Mapping[str, Any], results: Mapping[str, TaskResult], seed: int) -> list[Path]:
    """Writes ``path`` and the pictures beside it; returns the pictures' paths.

    Raises:
        InputError: another evaluation has put another model's results there meanwhile, or has been writing for minutes.
    """
    drawn = {name: render(result.draw) for name, result in results.items() if result.draw is not None}
    pictures = {name: path.with_name(f"{path.stem}_{name.replace(':', '_')}.png") for name in drawn}
    new = {
        name: result.to_json(seed) | ({"picture": pictures[name].name} if name in pictures else {})
        for name, result in results.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"--output {path}: another evaluation has been writing it for {LONGEST_WRITE:g} s"
    with only_holder(path.with_name(f"{path.name}.lock"), refusal, LONGEST_WRITE):
        check_same_model(path, model)
        tasks = (read_results(path) if path.exists() else {}) | new
        for name, content in drawn.items():
            write_atomically(pictures[name], content)
        write_json(path, values_without_credentials({"model": dict(model), "tasks": tasks}))
    return list(pictures.values())


def render(draw: Callable[[Any], None]) -> bytes:
    """A PNG of what ``draw`` draws into a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
