"""Pictures of the results, in the papers' form: loss over parameters and tokens, learning curves, bars.

In: a StudyConfig, a part's rows. Out: PNGs by name. Always: a point is the mean over seeds with its interval; a column
has the same colour in every picture; a part without rows has no picture.
"""

import math
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from common.drawn import literally
from scripts.evaluation.result import render
from scripts.evaluation.statistics import Estimate
from scripts.replication.comparisons import LOSS
from scripts.replication.config import StudyConfig
from scripts.replication.fits import fit
from scripts.replication.rows import Row, of_cells
from scripts.replication.sections import PartSettings
from scripts.replication.tables import Group, estimate, of_group, points

Axes = Any


def pictures_of(config: StudyConfig, part: PartSettings, rows: Sequence[Row]) -> dict[str, bytes]:
    """All pictures of a part."""
    cells = of_cells(rows, is_try=False)
    if not cells:
        return {}
    found = {}
    if len(part.sizes) > 1 and len(part.tokens) > 1:
        found["curves"] = render(partial(_draw_scaling, config=config, part=part, rows=cells))
    if part.targets:
        found["learning"] = render(partial(_draw_learning, config=config, part=part, rows=cells))
    found["values"] = render(partial(_draw_bars, config=config, part=part, rows=cells))
    return {f"study_{part.name}_{name}.png": content for name, content in found.items()}


def colour(config: StudyConfig, column: str) -> str:
    """The column's, in all pictures."""
    return f"C{[entry.name for entry in config.columns].index(column)}"


def _draw_scaling(figure: Any, config: StudyConfig, part: PartSettings, rows: Sequence[Row]) -> None:
    figure.set_size_inches(10.0, 4.5)
    titles = {
        "parameters": f"parameters without embedding, {part.tokens[-1]:,} tokens",
        "tokens": literally(f"tokens, {part.sizes[-1]}"),
    }
    for axes, (axis, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for column in part.columns:
            seeds = points(rows, column, axis, LOSS, part.sizes[-1], part.tokens[-1])
            if not seeds:
                continue
            pairs = [pair for own in seeds.values() for pair in own]
            law, ends = fit(pairs), sorted(x for x, _ in pairs)
            axes.plot(*zip(*pairs, strict=True), "o", ms=3, color=colour(config, column))
            label = f"{literally(column)} (exponent {law.exponent:.3f})"
            axes.plot(
                [ends[0], ends[-1]], [law.at(ends[0]), law.at(ends[-1])], color=colour(config, column), label=label
            )
        axes.set(xscale="log", yscale="log", xlabel=title, ylabel="held-out loss, nats per token")
        axes.grid(alpha=0.3, which="both")
        if axes.lines:
            axes.legend(fontsize=8)


def _draw_learning(figure: Any, config: StudyConfig, part: PartSettings, rows: Sequence[Row]) -> None:
    """All seeds, thin, and the middle one of each step."""
    figure.set_size_inches(5.0 * len(part.sizes), 4.5)
    for axes, size in zip(figure.subplots(1, len(part.sizes), squeeze=False)[0], part.sizes, strict=True):
        for column in part.columns:
            curves = [row["curve"] for row in of_cells(rows, column=column, size=size)]
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), lw=0.5, alpha=0.5, color=colour(config, column))
            by_step: dict[int, list[float]] = {}
            for step, loss in (point for curve in curves for point in curve):
                by_step.setdefault(step, []).append(loss)
            middle = {step: statistics.median(losses) for step, losses in by_step.items() if len(losses) == len(curves)}
            axes.plot(list(middle), list(middle.values()), lw=2, color=colour(config, column), label=literally(column))
        axes.set(xlabel="step", ylabel="held-out loss, nats per token", title=literally(f"size {size}"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def _draw_bars(figure: Any, config: StudyConfig, part: PartSettings, rows: Sequence[Row]) -> None:
    """What is measured, at the largest number of tokens."""
    axes = figure.subplots()
    tokens = part.tokens[-1] if part.tokens else 0
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    labels: list[str] = []
    shown: list[tuple[Estimate, str]] = []
    for size in part.sizes:
        for variant in variants:
            for column in part.columns:
                found = estimate(of_group(rows, Group(column, size, tokens, variant)), part.measures)
                if found is not None:
                    labels.append(literally(f"{Group(column, size, tokens, variant).title}, {size}"))
                    shown.append((found, colour(config, column)))
    figure.set_size_inches(7.5, 1.5 + 0.28 * len(labels))
    for place, (found, own) in enumerate(shown):
        ends = [[_length(found.value - found.low)], [_length(found.high - found.value)]]
        axes.errorbar([found.value], [place], xerr=ends, fmt="o", capsize=3, color=own)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel=literally(part.measures.replace("_", " ")))
    axes.grid(alpha=0.3, axis="x")


def _length(value: float) -> float:
    return value if math.isfinite(value) else 0.0
