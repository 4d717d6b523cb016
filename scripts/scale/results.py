"""The lab's results as a table, as lines of JSON and as a picture.

In: Rows and Races. Out: text; a picture of step times over link rates. Always: bars are what is asked of the engine,
and each row that has one says whether it holds.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

from common.files import finite
from scripts.scale.lab import Race, Row

BAR_SHARE = 0.6
"""of the arithmetic: where the bars stand"""
BAR_RATIO = 1.15
"""to unlimited links, with overlap under ZeRO 1 and 2"""
BAR_STAGES = 1.25
"""the same with pipeline stages"""
BAR_OVER_PLAIN = 1.05
"""one process beside the plain loop"""
BAR_BYTES = 0.03
"""between the kernel's count and the ledger's"""
BAR_PLAN = 0.10
"""between planned and measured step"""
HEADS = ("share", "Mbit/s", "step (s)", "ratio", "planned", "error", "sent MB", "by gloo", "ledger", "plan", "loss")


def header() -> str:
    """The table's first line."""
    return f"{'program':<24}" + "".join(f"{head:>9}" for head in HEADS) + "  bars"


def line(row: Row) -> str:
    """A row of the table."""
    error = None if row.planned_seconds is None else row.planned_seconds / row.seconds - 1
    sizes = (row.sent, row.gloo_sent, row.ledger_sent, row.planned_sent)
    megabytes = [f"{size / 1e6:.2f}" if size else "" for size in sizes]
    cells = (
        f"{row.share:.2f}" if row.share else "free",
        "" if row.rate is None else f"{8 * row.rate / 1e6:.0f}",
        f"{row.seconds:.3f}",
        f"{row.ratio:.3f}",
        "" if row.planned_seconds is None else f"{row.planned_seconds:.3f}",
        "" if error is None else f"{error:+.1%}",
        *megabytes,
        f"{row.loss:.4f}",
    )
    return f"{row.program:<24}" + "".join(f"{cell:>9}" for cell in cells) + "  " + "; ".join(bars(row))


def bars(row: Row) -> list[str]:
    """What is asked of this row, and whether it holds."""
    found = []
    if row.over_plain is not None:
        found.append(_bar(f"{row.over_plain:.3f} of the plain loop", row.over_plain <= BAR_OVER_PLAIN))
    if row.share == BAR_SHARE and row.program.endswith(" overlap") and not row.program.endswith("no overlap"):
        limit = BAR_STAGES if "stages" in row.program else BAR_RATIO
        found.append(_bar(f"ratio at most {limit}", row.ratio <= limit))
    if row.sent and row.gloo_sent and row.share:
        found.append(_bar(f"bytes {row.sent / row.gloo_sent - 1:+.1%}", agrees(row)))
    if row.planned_seconds is not None and row.share:
        found.append(_bar("plan", abs(row.planned_seconds / row.seconds - 1) <= BAR_PLAN))
    return found


def agrees(row: Row) -> bool:
    """Whether the kernel counted what the ledger did, as gloo sends it."""
    return abs(row.sent / row.gloo_sent - 1) <= BAR_BYTES


def race_line(race: Race) -> str:
    """What came of a run under random delays."""
    said = "every loss equal" if race.equal else "LOSSES DIFFER"
    return f"{race.program:<24} {race.steps} steps, {race.delayed} exchanges delayed: {said}"


def save(result: Row | Race, file: IO[str]) -> None:
    """Appends one line of JSON, which is on disk when this returns."""
    print(json.dumps(finite({"kind": type(result).__name__.lower(), **asdict(result)})), file=file, flush=True)


def draw(rows: Sequence[Row], path: Path) -> bool:
    """Step time over link rate, measured, planned and without overlap; False: too few rates for a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    limited = [row for row in rows if row.rate is not None]
    names = list(dict.fromkeys(row.program for row in limited))
    names = [name for name in names if sum(row.program == name for row in limited) > 1]
    groups = list(dict.fromkeys(_group(name) for name in names))
    if not groups:
        return False
    figure, axes = pyplot.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.6), squeeze=False, sharey=True)
    for group, axis in zip(groups, axes[0], strict=True):
        for name in (name for name in names if _group(name) == group):
            points = sorted((row for row in limited if row.program == name), key=lambda row: row.rate or 0)
            rates = [8 * (row.rate or 0) / 1e6 for row in points]
            free = next(row.seconds for row in rows if row.program == name and row.rate is None)
            label = name.removeprefix(group).strip() or "measured"
            (measured,) = axis.plot(rates, [row.seconds / free for row in points], marker="o", label=label)
            if all(row.planned_seconds is not None for row in points):
                plan = [(row.planned_seconds or 0) / free for row in points]
                axis.plot(rates, plan, linestyle="--", color=measured.get_color(), label=f"{label}, planned")
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set(title=group, xlabel="link, Mbit/s", xscale="log")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("step, of the step on unlimited links")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def _group(name: str) -> str:
    return name.removesuffix(" overlap").removesuffix(" no")


def _bar(said: str, holds: bool) -> str:
    return f"{said}: {'holds' if holds else 'MISSED'}"
