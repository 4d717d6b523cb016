"""The README's table of GPU figures, from a file of results.

In: results, or None where nothing has been measured. Out: lines, and the README with them between two marks. Always:
what is not in the results stands there as not measured; nothing is typed by hand.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.marked import write_between_marks
from scripts.speed.sizes import MEASUREMENT

MARKS = "make bench-gpu"
NOT_MEASURED = "not measured yet"
OWN = "fused"
"""the form of attention that is this project's"""


def write_readme(path: Path, results: Mapping[str, Any] | None) -> None:
    """Puts the table into the README.

    Raises:
        InputError: the marks are not there.
    """
    write_between_marks(path, MARKS, table(results))


def table(results: Mapping[str, Any] | None) -> list[str]:
    """The lines between the marks."""
    found = results or {}
    where = f"{found['device']}, {found['date']}, torch {found['versions']['torch']}" if results else NOT_MEASURED
    lines = [f"| on one GPU ({where}) | measured | aim |", "|---|---|---|"]
    for head_dim in MEASUREMENT.head_dims:
        own, others, standard = _attention(found, head_dim)
        widths = f"(K, 2K) = ({head_dim}, {2 * head_dim}), T {MEASUREMENT.length:,}, bf16"
        public = min(others) / own if own and others else None
        matched = own / min(standard) if own and standard else None
        lines.append(f"| fused differential attention, forward and backward, {widths}: speed over others' best "
                     f"| {_times(public)} | 1.25 or more |")  # fmt: skip
        lines.append(f"| its time over the matched standard attention's | {_times(matched)} | at most 1.25 |")
    for config, _ in MEASUREMENT.models:
        row = next((row for row in found.get("models", ()) if row["name"] == Path(config).stem), None)
        name = Path(config).stem.removeprefix("shared_diff_").upper()
        lines += [
            f"| {name}: model FLOPs utilization | {_share(row and row['model_flops_utilization'])} | 45 % or more |",
            f"| {name}: peak memory over the plan | {_times(row and row['peak_bytes'] / row['planned_bytes'])} | 1 |",
        ]
    return lines


def _attention(found: Mapping[str, Any], head_dim: int) -> tuple[float | None, list[float], list[float]]:
    """Seconds of (our form, other forms, the standard Transformer's forms)."""
    rows = found.get("attention", ())
    differential = [
        row for row in rows if row["operator"].startswith(f"differential attention, (K, 2K) = ({head_dim},")
    ]
    own = next((row["seconds"] for row in differential if row["implementation"] == OWN), None)
    others = [row["seconds"] for row in differential if row["implementation"] != OWN]
    standard = [row["seconds"] for row in rows if row["operator"] == f"standard attention, K {head_dim}"]
    return own, _known(others), _known(standard)


def _known(seconds: Iterable[float | None]) -> list[float]:
    return [value for value in seconds if value is not None]


def _times(ratio: float | None) -> str:
    return NOT_MEASURED if ratio is None else f"{ratio:.2f}"


def _share(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1%}"
