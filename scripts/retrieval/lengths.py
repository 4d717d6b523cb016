"""Kinds of attention before and after they were extended to longer samples, by the length of the prompt.

In: results files of every kind and seed, before and after. Out: a table in Markdown, JSON, and heat maps over length
and depth. Always: an interval is over seeds where there are several, or over their prompts where that is more; chance
stands in the table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_atomically, write_json
from scripts.evaluation.pictures import draw_grid
from scripts.evaluation.result import read_results, render
from scripts.evaluation.statistics import Estimate, proportion
from scripts.retrieval.comparison import over_seeds
from scripts.retrieval.extension import Measured

Cells = Mapping[tuple[int, float], float]
STATES = ("before", "after")


def compare_lengths(results: Mapping[str, Sequence[Measured]], output: Path) -> list[str]:
    """Writes ``output``.md, .json and .png; returns the table's lines. ``results`` has a kind's files, one per seed."""
    found = {
        (kind, state): [read_results(getattr(measured, state))["needles"] for measured in seeds]
        for kind, seeds in results.items()
        for state in STATES
    }
    first = next(iter(found.values()))[0]
    lengths, depths = first["settings"]["lengths"], first["settings"]["depths"]
    table = {row: {length: at_length(tasks, length) for length in lengths} for row, tasks in found.items()}
    lines = [
        f"Share of right answers, {first['settings']['samples_per_cell']} prompts for each length and each of "
        f"{len(depths)} depths; 95 % intervals over seeds, or over prompts where that is more.",
        "",
        f"| attention | seeds | extended | {' | '.join(f'{length:,} tokens' for length in lengths)} |",
        f"|---|---|---|{'---|' * len(lengths)}",
    ]
    for (kind, state), row in table.items():
        cells = [f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" for estimate in row.values()]
        lines.append(f"| {kind} | {len(found[kind, state])} | {state} | {' | '.join(cells)} |")
    chance = first["details"]["chance_of_any_needles_number"]["needles_1"]
    lines.append(f"| guessing digits | | | {' | '.join(f'{chance:.3f}' for _ in lengths)} |")
    write_atomically(output.with_suffix(".md"), "\n".join(lines) + "\n")
    document = {
        kind: {state: {str(length): at.to_json() for length, at in table[kind, state].items()} for state in STATES}
        for kind in results
    }
    write_json(output.with_suffix(".json"), {"table": document, "settings": first["settings"]})
    maps = {row: mean_cells(tasks) for row, tasks in found.items()}
    write_atomically(output.with_suffix(".png"), render(lambda figure: _draw(figure, list(results), maps)))
    return lines


def at_length(tasks: Sequence[Mapping[str, Any]], length: int) -> Estimate:
    """The share of right answers at ``length``, over all depths."""
    seeds = []
    for task in tasks:
        cells = [cell for cell in task["details"]["cells"] if cell["length"] == length]
        seeds.append(proportion(sum(cell["right"] for cell in cells), sum(cell["samples"] for cell in cells)).to_json())
    return over_seeds(seeds)


def mean_cells(tasks: Sequence[Mapping[str, Any]]) -> Cells:
    """Accuracy by (length, depth), the mean over seeds."""
    sums: dict[tuple[int, float], float] = {}
    for task in tasks:
        for cell in task["details"]["cells"]:
            place = cell["length"], cell["depth"]
            sums[place] = sums.get(place, 0.0) + cell["accuracy"] / len(tasks)
    return sums


def _draw(figure: Any, kinds: Sequence[str], maps: Mapping[tuple[str, str], Cells]) -> None:
    """A column of heat maps for each kind, before above after."""
    figure.set_size_inches(max(5.0, 1.0 + 2.6 * len(kinds)), 6.0)
    all_axes = figure.subplots(len(STATES), len(kinds), squeeze=False)
    for line, state in zip(all_axes, STATES, strict=True):
        for axes, kind in zip(line, kinds, strict=True):
            cells = maps[kind, state]
            lengths, depths = (sorted(set(places)) for places in zip(*cells, strict=True))
            values = [[cells[length, depth] for length in lengths] for depth in depths]
            rows, columns = [f"{depth:.0%}" for depth in depths], [f"{length:,}" for length in lengths]
            draw_grid(axes, values, rows, columns, f"{kind}, {state}", ("depth", "tokens"))
