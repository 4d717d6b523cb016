"""The curves of a report: what is drawn over tokens, of all runs on one chart.

In: the lines of runs. Out: charts as plain values, which page.js draws. Always: a chart that no run has a point of is
left out; a long curve keeps its highest and lowest points, so that no spike is lost.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.devices import GIB
from scripts.reporting.runs import RunFacts

MOST_POINTS = 1200
"""of a curve; a screen has no more columns"""
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One key of the lines."""

    key: str
    name: str
    style: str
    """line, dashed or dots"""
    unit: float = 1.0
    """what the values are divided by"""


@dataclass(frozen=True)
class Chart:
    """Curves with a common axis."""

    title: str
    unit: str
    curves: Sequence[Curve]
    logarithmic: bool = False


CHARTS = (
    Chart(
        "Loss",
        "nats per token",
        (Curve("mean_loss", "training", "line"), Curve("validation_loss", "held out", "dots")),
    ),
    Chart(
        "AR-hits and others, held out",
        "nats per token",
        (Curve("validation_ar_hit_loss", "AR-hits", "dots"), Curve("validation_others_loss", "others", "dashed")),
    ),
    Chart("Learning rate", "", (Curve("learning_rate", "rate", "line"),)),
    Chart("Gradient norm", "before clipping", (Curve("grad_norm", "norm", "line"),), logarithmic=True),
    Chart("Speed", "tokens per second", (Curve("tokens_per_second", "speed", "line"),)),
    Chart("Waiting for data", "seconds per step", (Curve("data_seconds", "waiting", "line"),)),
    Chart("Model FLOPs utilization", "%", (Curve("model_flops_utilization", "MFU", "line", 0.01),)),
    Chart(
        "Memory of rank 0's GPU",
        "GiB",
        (Curve("peak_memory_bytes", "used", "line", GIB), Curve("reserved_memory_bytes", "reserved", "dashed", GIB)),
    ),
)


def charts_of(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """The charts that have points: title, unit, whether logarithmic, and series with points (tokens, value)."""
    found = []
    for chart in CHARTS:
        series = [
            {"run": number, "name": curve.name, "style": curve.style, "points": points}
            for number, run in enumerate(runs)
            for curve in chart.curves
            if (points := thinned(list(_points(run, curve)), MOST_POINTS))
        ]
        if series:
            found.append({"title": chart.title, "unit": chart.unit, "log": chart.logarithmic, "series": series})
    return found


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` of them: of each stretch the lowest and the highest, in their order."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for first in range(0, len(points), size):
        stretch = points[first : first + size]
        ends = {min(range(len(stretch)), key=_height(stretch)), max(range(len(stretch)), key=_height(stretch))}
        kept += [stretch[place] for place in sorted(ends)]
    return kept


def _height(stretch: Sequence[Point]) -> Any:
    return lambda place: stretch[place][1]


def _points(run: RunFacts, curve: Curve) -> Iterator[Point]:
    tokens_at = {line["step"]: line["tokens"] for line in run.training if line.get("tokens") is not None}
    for line in [*run.training, *run.validation]:
        value, tokens = _value(line, curve.key), tokens_at.get(line["step"])
        if value is not None and tokens is not None:
            yield tokens, value / curve.unit


def _value(line: Mapping[str, Any], key: str) -> float | None:
    """Runs of earlier versions have no mean over the steps since the line before, only each line's own step."""
    return line.get("loss") if key == "mean_loss" and line.get(key) is None else line.get(key)
