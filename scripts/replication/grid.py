"""The state of a study: which cells stand, which can be worked on, which wait for a sweep.

In: a StudyConfig and its Results. Out: Plans. Always: a column's rate is the best of its tries, once all of them stand;
among tries that never got there, or got there at the same time, the lower held-out loss decides.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.replication.cells import Cell, cells_of, tries_of
from scripts.replication.config import StudyConfig
from scripts.replication.plans import Plan, plan_of
from scripts.replication.rows import Results, Row
from scripts.replication.sections import PartSettings


@dataclass(frozen=True)
class Entry:
    """A cell and how it stands."""

    plan: Plan
    """of a cell that waits, with the first of the rates that are tried: good for an estimate only"""
    row: Row | None
    waits: bool = False
    """for its column's rate"""


class Grid:
    """The cells of the chosen parts."""

    def __init__(self, config: StudyConfig, results: Results, only: Sequence[str] = ()) -> None:
        """``only``: names of parts; with them come the sweeps of the parts that their rates are from."""
        self._config = config
        self._results = results
        self._plans: dict[Cell, Plan] = {}
        self._parts = [part for part in config.parts if not only or part.name in only]
        chosen = [part.name for part in self._parts]
        lent = {part.rates_from for part in self._parts} - set(chosen)
        self._sweeps = [part for part in config.parts if part.name in lent]

    def entries(self) -> list[Entry]:
        """All cells, in the order in which they are worked on."""
        return [*self._tries(), *(entry for part in self._parts for entry in self._cells(part))]

    def rows(self, part: str) -> list[Row]:
        """The rows of a part that belong to this grid: its tries and its cells, not those of earlier grids."""
        settings = self._config.part(part)
        entries = [*map(self._entry, tries_of(settings)), *self._cells(settings)]
        return [entry.row for entry in entries if entry.row is not None]

    def rate(self, part: PartSettings, column: str) -> float | None:
        """The learning rate of a column; None: its tries do not all stand yet."""
        if part.rates_from is not None:
            return self.rate(self._config.part(part.rates_from), column)
        tries = [self._entry(cell) for cell in tries_of(part) if cell.column == column]
        if any(entry.row is None for entry in tries):
            return None
        return best_of([entry.row for entry in tries if entry.row is not None], part.better)["rate"]

    def _tries(self) -> Iterator[Entry]:
        for part in [*self._sweeps, *self._parts]:
            yield from map(self._entry, tries_of(part))

    def _cells(self, part: PartSettings) -> Iterator[Entry]:
        rates = {column: self.rate(part, column) for column in part.columns}
        lender = self._config.part(part.rates_from) if part.rates_from is not None else part
        assert lender.sweep is not None
        for cell in cells_of(self._config, part):
            rate = rates[cell.column]
            if rate is not None:
                yield self._entry(cell.at(rate))
            else:
                yield Entry(self._plan(cell.at(lender.sweep.rates[0])), None, waits=True)

    def _entry(self, cell: Cell) -> Entry:
        plan = self._plan(cell)
        return Entry(plan, self._results.find(plan))

    def _plan(self, cell: Cell) -> Plan:
        if cell not in self._plans:
            self._plans[cell] = plan_of(self._config, cell)
        return self._plans[cell]


def best_of(rows: Sequence[Row], better: str) -> Row:
    """The row with the best value; one without a value is worse than all with one."""

    def key(row: Row) -> tuple[float, float]:
        value, loss = row["value"], row["figures"].get("validation_loss")
        worth = math.inf if value is None else (value if better == "lower" else -value)
        return worth, math.inf if loss is None else loss

    return min(rows, key=key)
