"""How long cells will take, by those that were measured.

In: the rows that stand, and what the study's file says before there are any. Out: seconds. Always: tokens per second
are those of the same size and column, else of the size, else the file's; all else that a cell does costs what it cost
other cells of the part.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from scripts.replication.config import StudyConfig
from scripts.replication.plans import Plan
from scripts.replication.rows import Row


@dataclass
class _Total:
    """Of a sum of things their mean."""

    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        self.amount += amount
        self.seconds += seconds


@dataclass
class Estimator:
    """Learns from rows."""

    config: StudyConfig
    _training: dict[tuple[str, ...], _Total] = field(default_factory=lambda: defaultdict(_Total))
    _overhead: dict[str, _Total] = field(default_factory=lambda: defaultdict(_Total))

    def learn(self, rows: Iterable[Row]) -> None:
        """Takes what cells took; a cell that was cut short, or found its run done, tells nothing about its starts."""
        for row in rows:
            tokens, seconds = row["figures"].get("trained_tokens"), row["training_seconds"]
            if not tokens or not seconds or row["seconds"] < seconds:
                continue
            for key in ((row["size"],), (row["size"], row["column"])):
                self._training[key].add(tokens, seconds)
            self._overhead[row["part"]].add(1, row["seconds"] - seconds)

    def seconds(self, plans: Iterable[Plan]) -> float:
        """Of cells, if no stage of them ends early; a run that several share is trained once."""
        total, trained = 0.0, set[str]()
        for plan in plans:
            cell = plan.cell
            overhead = self._overhead.get(cell.part)
            default = self.config.part(cell.part).overhead_seconds
            total += overhead.seconds / overhead.amount if overhead else default
            for stage in plan.stages:
                if stage.key not in trained:
                    trained.add(stage.key)
                    total += stage.steps * stage.tokens_per_step / self.tokens_per_second(cell.size, cell.column)
        return total

    def tokens_per_second(self, size: str, column: str) -> float:
        """Of training."""
        for key in ((size, column), (size,)):
            if (total := self._training.get(key)) is not None:
                return total.amount / total.seconds
        return self.config.size(size).tokens_per_second
