"""A report as one HTML page that needs no other file.

In: RunFacts. Out: HTML with its pictures inside, as page.html beside this file lays it out. Always: the
template escapes every value that it is given.
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from scripts.evaluation.result import render
from scripts.evaluation.statistics import Estimate
from scripts.reporting.runs import RunFacts
from scripts.reporting.telemetry import draw_inside

TEMPLATE = Path(__file__).with_name("page.html")


def report_page(runs: Sequence[RunFacts]) -> str:
    """The whole page."""
    environment = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
    environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
    has_ar_hits = any("validation_ar_hit_loss" in line for run in runs for line in run.validation)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        names=[run.name for run in runs],
        summary=_summary_rows(runs),
        losses=_picture(_draw_losses, runs),
        ar_hits=_picture(_draw_ar_hits, runs) if has_ar_hits else None,
        evaluations=_evaluation_rows(runs),
        pictures=_pictures(runs),
        lambdas=_picture(_draw_lambdas, runs) if any(run.lambdas for run in runs) else None,
        inside=_inside(runs),
        differences=_differences(runs),
        settings=[(run.name, list(run.settings().items())) for run in runs],
    )


def _picture(draw: Callable[[Any, Sequence[RunFacts]], None], runs: Sequence[RunFacts]) -> bytes:
    return render(lambda figure: draw(figure, runs))


def _summary_rows(runs: Sequence[RunFacts]) -> list[list[str]]:
    def row(title: str, tell: Callable[[RunFacts], Any]) -> list[str]:
        return [title, *(_told(tell(run)) for run in runs)]

    return [
        row("attention", lambda run: run.config.model.attention),
        row("steps", lambda run: _last(run.training, "step")),
        row("tokens", lambda run: _last(run.training, "tokens")),
        row("training loss", lambda run: _last(run.training, "loss")),
        row("validation loss", lambda run: _last(run.validation, "validation_loss")),
        row("bits per byte", lambda run: _last(run.validation, "validation_bits_per_byte")),
        row("perplexity", lambda run: _last(run.validation, "validation_perplexity")),
        row("AR-hit loss", lambda run: _last(run.validation, "validation_ar_hit_loss")),
        row("others' loss", lambda run: _last(run.validation, "validation_others_loss")),
        row("tokens per second", lambda run: _last(run.training, "tokens_per_second")),
        row("model FLOPs utilization", lambda run: _last(run.training, "model_flops_utilization")),
    ]


def _last(lines: Sequence[dict[str, Any]], key: str) -> Any:
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


def _told(value: Any) -> str:
    if value is None:
        return "-"
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


def _draw_losses(figure: Any, runs: Sequence[RunFacts]) -> None:
    axes = figure.subplots()
    for run in runs:
        tokens_at = {line["step"]: line["tokens"] for line in run.training}
        (line,) = axes.plot(
            [entry["tokens"] for entry in run.training], [entry["loss"] for entry in run.training], lw=1, label=run.name
        )
        points = [entry for entry in run.validation if entry["step"] in tokens_at]
        axes.plot(
            [tokens_at[entry["step"]] for entry in points],
            [entry["validation_loss"] for entry in points],
            "o--",
            ms=4,
            lw=1,
            color=line.get_color(),
        )
    axes.set(xlabel="tokens", ylabel="nats per token", title="training loss (lines) and validation loss (dots)")
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_ar_hits(figure: Any, runs: Sequence[RunFacts]) -> None:
    keys = {"validation_ar_hit_loss": "AR-hits", "validation_others_loss": "others"}
    for axes, (key, title) in zip(figure.subplots(1, 2), keys.items(), strict=True):
        for run in runs:
            points = [line for line in run.validation if line.get(key) is not None]
            axes.plot([line["step"] for line in points], [line[key] for line in points], "o-", ms=4, label=run.name)
        axes.set(xlabel="step", ylabel="nats per token", title=title)
        axes.grid(alpha=0.3)
        axes.legend()


def _draw_lambdas(figure: Any, runs: Sequence[RunFacts]) -> None:
    axes = figure.subplots()
    for run in runs:
        for step, values in run.lambdas.items():
            axes.plot(range(1, len(values) + 1), values, "o-", ms=3, label=f"{run.name}, step {step}")
    axes.set(xlabel="layer", ylabel="lambda")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
