"""A report as one HTML page that needs no other file.

In: RunFacts. Out: HTML with its pictures inside, as page.html beside this file lays it out, with the looks of page.css;
page.js draws the curves. Always: the template escapes every value that it is given.
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from common.drawn import literally
from data.progress import clock
from pretrain.devices import GIB
from pretrain.standing import Status
from scripts.evaluation.result import render
from scripts.evaluation.statistics import Estimate
from scripts.reporting.curves import charts_of
from scripts.reporting.runs import RunFacts
from scripts.reporting.telemetry import draw_inside

SHOWN_TEXTS = 8
"""newest samples of text of each run"""
SHOWN_SKIPS = 50
"""newest skipped steps of each run"""
UNKNOWN = "-"
LONGEST_SECONDS = 86400.0 * 365 * 1000


def report_page(runs: Sequence[RunFacts], every: int = 0) -> str:
    """The whole page; one that is served asks for a newer one ``every`` so many seconds."""
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
    return environment.from_string(_beside("page.html")).render(
        every=every,
        style=_beside("page.css"),
        script=_beside("page.js"),
        names=[run.name for run in runs],
        summary=_summary_rows(runs),
        charts=charts_of(runs),
        texts=[(run.name, list(reversed(run.texts.items()))[:SHOWN_TEXTS]) for run in runs if run.texts],
        evaluations=_evaluation_rows(runs),
        pictures=_pictures(runs),
        starts=[(run.name, _starts(run)) for run in runs if run.status is not None and run.status.attempts],
        skipped=[(run.name, _skipped(run)) for run in runs if run.skipped],
        lambdas=_picture(_draw_lambdas, runs) if any(run.lambdas for run in runs) else None,
        inside=_inside(runs),
        differences=_differences(runs),
        settings=[(run.name, list(run.settings().items())) for run in runs],
    )


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _picture(draw: Callable[[Any, Sequence[RunFacts]], None], runs: Sequence[RunFacts]) -> bytes:
    return render(lambda figure: draw(figure, runs))


def _summary_rows(runs: Sequence[RunFacts]) -> list[list[str]]:
    """A row for each fact that some run tells."""

    def row(title: str, tell: Callable[[RunFacts], Any]) -> list[str]:
        return [title, *(_told(tell(run)) for run in runs)]

    def standing(title: str, tell: Callable[[Status], Any]) -> list[str]:
        return row(title, lambda run: None if run.status is None else tell(run.status))

    rows = [
        standing("state", lambda status: status.state),
        row("attention", lambda run: run.config.model.attention),
        standing("steps", lambda status: status.step),
        row("of", lambda run: run.config.train.steps),
        row("tokens", lambda run: _last(run.training, "tokens")),
        row("training loss", lambda run: _last(run.training, "loss")),
        row("mean since the line before", lambda run: _last(run.training, "mean_loss")),
        row("validation loss", lambda run: _last(run.validation, "validation_loss")),
        row("bits per byte", lambda run: _last(run.validation, "validation_bits_per_byte")),
        row("perplexity", lambda run: _last(run.validation, "validation_perplexity")),
        row("AR-hit loss", lambda run: _last(run.validation, "validation_ar_hit_loss")),
        row("others' loss", lambda run: _last(run.validation, "validation_others_loss")),
        row("learning rate", lambda run: _short(_last(run.training, "learning_rate"))),
        row("gradient norm", lambda run: _last(run.training, "grad_norm")),
        row("tokens per second", lambda run: _last(run.training, "tokens_per_second")),
        row("model FLOPs utilization", lambda run: _last(run.training, "model_flops_utilization")),
        standing("memory, GiB", lambda status: _gib(status.peak_memory_bytes)),
        standing("memory reserved, GiB", lambda status: _gib(status.reserved_memory_bytes)),
        standing("time left", lambda status: _left(status.seconds_left)),
        standing("starts", lambda status: len(status.attempts) or None),
        standing("skipped steps", lambda status: status.skipped_steps),
        standing("rollbacks", lambda status: status.rollbacks),
        standing("checkpoint", lambda status: status.checkpoint),
    ]
    return [cells for cells in rows if any(cell != UNKNOWN for cell in cells[1:])]


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB


def _short(number: float | None) -> str | None:
    return None if number is None else f"{number:.3g}"


def _left(seconds: float | None) -> str | None:
    return clock(min(seconds, LONGEST_SECONDS)) if seconds else None


def _starts(run: RunFacts) -> list[list[str]]:
    """How each start of the run went, the newest first."""
    assert run.status is not None
    keys = ("number", "began", "from_step", "to_step", "outcome", "reason")
    return [[_told(start[key]) for key in keys] for start in reversed(run.status.attempts)]


def _skipped(run: RunFacts) -> list[list[str]]:
    """The newest first."""
    return [[_told(line.get(key)) for key in ("step", "reason")] for line in run.skipped[: -SHOWN_SKIPS - 1 : -1]]


def _last(lines: Sequence[dict[str, Any]], key: str) -> Any:
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


def _told(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _evaluation_rows(runs: Sequence[RunFacts]) -> list[list[str]]:
    """One row per task and metric; a cell is the value, its interval and its count."""
    rows = []
    for task in sorted({task for run in runs for task in run.evaluations}):
        metrics = dict.fromkeys(name for run in runs for name in run.evaluations.get(task, {}).get("metrics", {}))
        for name in metrics:
            cells = [run.evaluations.get(task, {}).get("metrics", {}).get(name) for run in runs]
            rows.append([f"{task}: {name}", *("-" if cell is None else _cell(cell) for cell in cells)])
    return rows


def _cell(values: dict[str, Any]) -> str:
    numbers = {key: float("nan") if values[key] is None else values[key] for key in ("value", "low", "high")}
    return str(Estimate(**numbers, count=values["count"], method=values["method"]))


def _pictures(runs: Sequence[RunFacts]) -> list[tuple[str, bytes]]:
    """Captions and pictures of the evaluations, task by task."""
    return [
        (f"{run.name}: {task}", content)
        for task in sorted({task for run in runs for task in run.pictures})
        for run in runs
        if (content := run.pictures.get(task)) is not None
    ]


def _inside(runs: Sequence[RunFacts]) -> list[tuple[str, bytes]]:
    """Names and heat maps of the runs that recorded numbers from inside their models."""
    return [(run.name, render(partial(draw_inside, telemetry=run.inside))) for run in runs if run.inside]


def _differences(runs: Sequence[RunFacts]) -> list[list[str]]:
    settings = [run.settings() for run in runs]
    keys = [
        key for key in dict.fromkeys(key for values in settings for key in values) if key not in ("name", "run_dir")
    ]
    return [
        [key, *(str(values.get(key, "-")) for values in settings)]
        for key in keys
        if len({str(values.get(key)) for values in settings}) > 1
    ]


def _draw_lambdas(figure: Any, runs: Sequence[RunFacts]) -> None:
    axes = figure.subplots()
    for run in runs:
        for step, values in run.lambdas.items():
            axes.plot(range(1, len(values) + 1), values, "o-", ms=3, label=literally(f"{run.name}, step {step}"))
    axes.set(xlabel="layer", ylabel="lambda")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
