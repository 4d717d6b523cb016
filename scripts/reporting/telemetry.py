"""Numbers from inside the model, as pictures: heat maps over blocks and steps, curves for what has no block.

In: the telemetry of a run, by step. Out: drawings in a matplotlib figure. Always: every name that the run recorded is
drawn, whatever it is called; what was no number stays empty.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from common.drawn import literally

Telemetry = Mapping[int, Mapping[str, Any]]
"""step -> name -> a number, or a list with one for each block; None: no number"""

COLUMNS = 3
MOST_STEPS = 400
"""columns of a heat map; of more steps, evenly spaced ones are drawn"""


def draw_inside(figure: Any, telemetry: Telemetry) -> None:
    """Everything that was recorded: first what blocks recorded, then the rest, one panel for each name or group."""
    steps = sorted(telemetry)
    steps = steps[:: math.ceil(len(steps) / MOST_STEPS)]
    names = list(dict.fromkeys(name for step in steps for name in telemetry[step]))
    of_blocks = [name for name in names if any(isinstance(telemetry[step].get(name), list) for step in steps)]
    groups: dict[str, list[str]] = {}
    for name in names:
        if name not in of_blocks:
            groups.setdefault(name.split("/")[0], []).append(name)
    rows = math.ceil((len(of_blocks) + len(groups)) / COLUMNS)
    figure.set_size_inches(4.2 * COLUMNS, 2.4 * rows)
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, name in zip(panels, of_blocks, strict=False):
        _draw_heat_map(figure, axes, steps, [telemetry[step].get(name) for step in steps], name)
    left = panels[len(of_blocks) :]
    for axes, (group, members) in zip(left, groups.items(), strict=False):
        _draw_curves(axes, steps, {name: [telemetry[step].get(name) for step in steps] for name in members}, group)
    for axes in left[len(groups) :]:
        axes.axis("off")


def _draw_heat_map(figure: Any, axes: Any, steps: Sequence[int], columns: Sequence[Any], name: str) -> None:
    wanted = [column if isinstance(column, list) else [] for column in columns]
    blocks = max(1, *map(len, wanted))
    values = [[_number(column[block] if block < len(column) else None) for column in wanted] for block in range(blocks)]
    picture = axes.imshow(values, aspect="auto", interpolation="nearest", cmap="viridis")
    ticks = sorted({round(place * (len(steps) - 1) / 4) for place in range(5)})
    axes.set_xticks(ticks, [str(steps[tick]) for tick in ticks], fontsize=7)
    marks = sorted({round(place * (blocks - 1) / 5) for place in range(6)})
    axes.set_yticks(marks, [str(mark) for mark in marks], fontsize=7)
    axes.set_title(literally(name), fontsize=9)
    figure.colorbar(picture, ax=axes).ax.tick_params(labelsize=7)


def _draw_curves(axes: Any, steps: Sequence[int], curves: Mapping[str, Sequence[Any]], title: str) -> None:
    """Logarithmic where there are several, whose sizes differ by powers of ten."""
    for place, (name, values) in enumerate(curves.items()):
        dashes = ("-", "--", ":")[place // 10 % 3]
        numbers = [_number(value) for value in values]
        (line,) = axes.plot(steps, numbers, dashes, lw=1, color=f"C{place % 10}")
        line.set_label(literally(name.partition("/")[2]) or "_")
    axes.set_title(literally(title), fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.set_yscale("log")
        axes.legend(fontsize=5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _number(value: Any) -> float:
    return math.nan if value is None or isinstance(value, list) else float(value)
