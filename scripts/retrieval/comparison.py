"""Kinds of attention side by side on the needle task, over seeds.

In: the results files of every kind and seed. Out: a table in Markdown, JSON, and a picture.
Always: a kind's interval is over seeds where there are several, or over their prompts where that is more; chance stands
in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import write_atomically, write_json
from scripts.evaluation.result import read_results, render
from scripts.evaluation.statistics import Estimate, mean, widened


def compare(results: Mapping[str, Sequence[Path]], output: Path) -> list[str]:
    """Writes ``output``.md, .json and .png; returns the table's lines. ``results`` has a kind's files, one per seed."""
    found = {kind: [read_results(path)["needles"] for path in paths] for kind, paths in results.items()}
    first = next(iter(found.values()))[0]
    names = list(first["metrics"])
    table = {
        kind: {name: over_seeds([task["metrics"][name] for task in tasks]) for name in names}
        for kind, tasks in found.items()
    }
    lengths = ", ".join(f"{length:,}" for length in first["settings"]["lengths"])
    lines = [
        f"Share of right answers at {lengths} tokens, {first['settings']['samples_per_cell']} prompts for each of "
        f"{len(first['settings']['depths'])} depths; 95 % intervals over seeds, or over prompts where that is more.",
        "",
        f"| attention | seeds | {' | '.join(name.replace('_', ' ') for name in names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for kind, row in table.items():
        cells = [f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" for estimate in row.values()]
        lines.append(f"| {kind} | {len(found[kind])} | {' | '.join(cells)} |")
    chances = [_chance(name, first["details"]["chance_of_any_needles_number"]) for name in names]
    lines.append(f"| any needle's number | | {' | '.join(chances)} |")
    write_atomically(output.with_suffix(".md"), "\n".join(lines) + "\n")
    document = {kind: {name: estimate.to_json() for name, estimate in row.items()} for kind, row in table.items()}
    write_json(output.with_suffix(".json"), {"table": document, "settings": first["settings"]})
    write_atomically(output.with_suffix(".png"), render(lambda figure: _draw(figure, table, names)))
    return lines


def over_seeds(metrics: Sequence[Mapping[str, Any]]) -> Estimate:
    """The mean over seeds of shares of right answers; of one seed its own estimate."""
    if len(metrics) == 1:
        return Estimate(**metrics[0])
    values = [metric["value"] for metric in metrics]
    found = widened(mean(values), values, [(metric["low"], metric["high"]) for metric in metrics])
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _chance(name: str, chances: Mapping[str, float]) -> str:
    """What guessing among the numbers in the context gives (guessing digits where there is one needle)."""
    chance = chances.get(name.split("_asked_")[0], 0.0)
    return f"{chance:.3f}" if "all_right" not in name else ""


def _draw(figure: Any, table: Mapping[str, Mapping[str, Estimate]], names: Sequence[str]) -> None:
    axes = figure.subplots()
    width = 0.8 / len(table)
    for index, (kind, row) in enumerate(table.items()):
        places = [place + index * width for place in range(len(names))]
        values = [row[name].value for name in names]
        errors = [
            [max(0.0, row[name].value - row[name].low) for name in names],
            [max(0.0, row[name].high - row[name].value) for name in names],
        ]
        axes.bar(places, values, width * 0.9, yerr=errors, capsize=3, label=kind)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(names))], names, rotation=15, fontsize=8)
    axes.set(ylabel="share of right answers", ylim=(0, 1.05), title="retrieval after training from nothing")
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
