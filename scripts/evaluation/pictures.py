"""The two forms of the papers' figures: heat maps and curves with bands.

In: numbers and labels. Out: drawings in matplotlib axes. Always: a cell shows its number, a curve its interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from common.drawn import literally
from scripts.evaluation.statistics import Estimate


def draw_grid(
    axes: Any,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    titles: tuple[str, str],
    limits: tuple[float, float] = (0.0, 1.0),
) -> None:
    """A heat map, red to green over ``limits``; ``titles`` are those of the rows and of the columns."""
    axes.imshow(values, cmap="RdYlGn", vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, ylabel=titles[0], xlabel=titles[1])
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            dark = abs(value - (limits[0] + limits[1]) / 2) > 0.4 * (limits[1] - limits[0])
            colour = "white" if dark else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)


def draw_curves(
    axes: Any,
    curves: Mapping[str, Mapping[float, Estimate]],
    x_title: str,
    y_title: str,
    title: str,
    log_x: bool = False,
) -> None:
    """One line per name over its x values, with its interval as a band."""
    for name, points in curves.items():
        xs = sorted(points)
        (line,) = axes.plot(xs, [points[x].value for x in xs], "o-", ms=3, lw=1.2, label=literally(name))
        lows, highs = [points[x].low for x in xs], [points[x].high for x in xs]
        axes.fill_between(xs, lows, highs, color=line.get_color(), alpha=0.2, lw=0)
    if log_x and any(curves.values()):  # matplotlib has no logarithmic axis without a point
        axes.set_xscale("log", base=2)
    axes.set(xlabel=x_title, ylabel=y_title, title=title)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=8)
