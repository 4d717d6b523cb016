"""A report as one HTML page that needs no other file.

In: RunFacts. Out: HTML with its pictures inside. Always: everything that came from a file is escaped.
"""

import base64
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import Any

from scripts.evaluation.result import render
from scripts.evaluation.statistics import Estimate
from scripts.reporting.runs import RunFacts
from scripts.reporting.telemetry import draw_inside

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; text-align: left;
border-bottom: 1px solid #eee; vertical-align: top } th { background: #f6f6f6 } img { max-width: 100% }
small { color: #777 } figure { display: inline-block; margin: .5em; max-width: 520px }
"""


def report_page(runs: Sequence[RunFacts]) -> str:
    """The whole page."""
    names = [run.name for run in runs]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(', '.join(names))}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(', '.join(names))}</h1>",
        _section("Runs", _table(["", *names], _summary_rows(runs))),
        _section("Loss", _picture(lambda figure: _draw_losses(figure, runs))),
    ]
    if any("validation_ar_hit_loss" in line for run in runs for line in run.validation):
        parts.append(_section("AR-hits and others", _picture(lambda figure: _draw_ar_hits(figure, runs))))
    if any(run.evaluations for run in runs):
        parts.append(_section("Evaluations", _table(["", *names], _evaluation_rows(runs)) + _pictures(runs)))
    if any(run.lambdas for run in runs):
        note = "<small>exp(l<sub>q1</sub> l<sub>k1</sub>) - exp(l<sub>q2</sub> l<sub>k2</sub>) + its constant</small>"
        parts.append(_section("Lambda per layer", note + _picture(lambda figure: _draw_lambdas(figure, runs))))
    if any(run.inside for run in runs):
        parts.append(_section("Inside the model", _inside(runs)))
    if len(runs) > 1:
        parts.append(_section("Settings that differ", _table(["", *names], _differences(runs))))
    parts.append(_section("Settings", "".join(_settings(run) for run in runs)))
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["<table><tr>", *(f"<th>{escape(cell)}</th>" for cell in header), "</tr>"]
    for row in rows:
        lines += ["<tr>", *(f"<td>{escape(cell)}</td>" for cell in row), "</tr>"]
    return "".join([*lines, "</table>"])


def _picture(draw: Callable[[Any], None]) -> str:
    return _image(render(draw))


def _image(content: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(content).decode()}'>"


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


def _pictures(runs: Sequence[RunFacts]) -> str:
    figures = [
        f"<figure>{_image(content)}<figcaption><small>{escape(run.name)}: {escape(task)}</small></figcaption></figure>"
        for task in sorted({task for run in runs for task in run.pictures})
        for run in runs
        if (content := run.pictures.get(task)) is not None
    ]
    return "".join(figures)


def _inside(runs: Sequence[RunFacts]) -> str:
    """One picture for each run: its heat maps, blocks from top to bottom and steps from left to right."""
    note = (
        "<small>docs/telemetry.md says what each number is; blocks from top to bottom, steps from left to right</small>"
    )
    pictures = [
        f"<p><small>{escape(run.name)}</small></p>{_picture(partial(draw_inside, telemetry=run.inside))}"
        for run in runs
        if run.inside
    ]
    return "".join([note, *pictures])


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


def _settings(run: RunFacts) -> str:
    rows = [[key, str(value)] for key, value in run.settings().items()]
    return f"<details><summary>{escape(run.name)}</summary>{_table(['setting', 'value'], rows)}</details>"


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
