"""The results that stand: a row for each cell that was measured, a file for each part.

In: rows. Out: RESULTS/PART.json. Always: a file is replaced as a whole; a digest stands in it once; rows are in the
order of their labels, so that a file differs by what was added.
"""

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import finite, read_json, write_json
from common.software import PROGRAM, commit, versions
from scripts.replication.cells import Cell
from scripts.replication.plans import Plan

Row = dict[str, Any]
DIGITS = 7
"""of a figure: more than any seed agrees on with another"""
NEEDED = ("part", "label", "kind", "column", "seed", "measures", "value", "digest")
PACKAGES = (PROGRAM, "torch", "deepspeed", "megatron-core", "transformers")


class Results:
    """The rows of a study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, dict[str, Row]] = {}

    def rows(self, part: str) -> list[Row]:
        """All rows of a part, those of earlier grids among them.

        Raises:
            InputError: the part's file is damaged.
        """
        return list(self._of(part).values())

    def find(self, plan: Plan) -> Row | None:
        """The row of a cell; None: it was not measured."""
        return self._of(plan.cell.part).get(plan.digest)

    def add(self, row: Row) -> None:
        """Keeps a row, on the disk."""
        rows = self._of(row["part"])
        rows[row["digest"]] = finite(row)
        cells = sorted(rows.values(), key=lambda row: (row["label"], row["digest"]))
        write_json(self._path(row["part"]), {"part": row["part"], "cells": cells})

    def _of(self, part: str) -> dict[str, Row]:
        if part not in self._rows:
            path = self._path(part)
            self._rows[part] = {row["digest"]: row for row in _read(path)} if path.exists() else {}
        return self._rows[part]

    def _path(self, part: str) -> Path:
        return self._folder / f"{part}.json"


def _read(path: Path) -> list[Row]:
    document = read_json(path, "results of a study")
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list):
        raise InputError(f"{path}: not the results of a study (no cells)")
    for number, row in enumerate(cells):
        missing = [name for name in NEEDED if not isinstance(row, dict) or name not in row]
        if missing:
            raise InputError(f"{path}: cells[{number}] has no '{missing[0]}'; take the cell out, and it is made again")
    return cells


def row_of(
    plan: Plan,
    measures: str,
    figures: dict[str, float | None],
    seconds: dict[str, float],
    within: dict[str, tuple[float, float]] | None = None,
) -> Row:
    """A row.

    Args:
        measures: the figure that is the cell's value.
        figures: by name; None: there is no such number, as of steps to a loss that was never reached.
        seconds: of training and of the whole cell.
        within: of figures that are estimates, the ends of their intervals over prompts or samples.
    """
    cell: Cell = plan.cell
    figures = {name: rounded(value) if isinstance(value, float) else value for name, value in figures.items()}
    return {
        "part": cell.part,
        "label": cell.label,
        "column": cell.column,
        "kind": plan.kind,
        "size": cell.size,
        "tokens": cell.tokens,
        "variant": cell.variant,
        "seed": cell.seed,
        "rate": cell.rate,
        "is_try": cell.is_try,
        "measures": measures,
        "value": figures.get(measures),
        "figures": figures,
        "within": {name: [rounded(end) for end in ends] for name, ends in (within or {}).items()},
        "bound": plan.stages[0].steps,
        "parameters": plan.parameters,
        "embedding": plan.embedding,
        "seconds": round(seconds["cell"], 1),
        "training_seconds": round(seconds["training"], 1),
        "digest": plan.digest,
        **_made_by(),
    }


def rounded(value: float) -> float:
    """To as many digits as are kept."""
    return float(f"{value:.{DIGITS}g}")


@cache
def _made_by() -> Row:
    """The program when this process began, and what computed."""
    return {"commit": commit(), "versions": {"machine": platform.machine(), **versions(PACKAGES)}}


def of_cells(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values, as in ``size="s2"``."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
