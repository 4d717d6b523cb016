"""The cells of a part: what is compared, before anything is known of rates.

In: a StudyConfig. Out: Cells in the order in which they are worked on. Always: the tries of a sweep come first, and
every column has the same ones.
"""

from dataclasses import dataclass, replace

from scripts.replication.config import StudyConfig
from scripts.replication.sections import PartSettings

PLAIN = "-"
"""the variant of a cell without one"""


@dataclass(frozen=True)
class Cell:
    """One point of a grid."""

    part: str
    column: str
    size: str
    tokens: int
    """of the stages that do not say their own; 0: all do"""
    variant: str
    seed: int
    rate: float | None = None
    """peak learning rate; None: the sweep has not chosen yet"""
    is_try: bool = False
    """it is there to choose a rate, and is no part of the comparisons"""

    @property
    def label(self) -> str:
        """What messages and ``--trace`` call it."""
        tail = f"/try-{self.rate:g}" if self.is_try else ""
        return f"{self.part}/{self.column}/{self.size}/{self.tokens}/{self.variant}/{self.seed}{tail}"

    def at(self, rate: float | None) -> "Cell":
        """The same cell with a rate."""
        return replace(self, rate=rate)


def tries_of(part: PartSettings) -> list[Cell]:
    """The cells of the part's own sweep."""
    sweep = part.sweep
    if sweep is None:
        return []
    tokens = (sweep.tokens or part.tokens[0]) if part.tokens else 0
    return [
        Cell(part.name, column, sweep.size, tokens, PLAIN, sweep.seed, rate, is_try=True)
        for rate in sweep.rates
        for column in part.columns
    ]


def cells_of(config: StudyConfig, part: PartSettings) -> list[Cell]:
    """The cells that are compared, without rates; seeds outermost, so that an interrupted grid has whole tables."""
    variants = [PLAIN] if part.plain else []
    return [
        Cell(part.name, column, size, tokens, variant, seed)
        for seed in part.seeds
        for size in part.sizes
        for tokens in part.tokens or [0]
        for variant in [*variants, *part.variants]
        for column in part.columns
        if variant == PLAIN or column in config.variant(variant).columns
    ]
