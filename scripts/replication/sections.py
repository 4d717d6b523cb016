"""The sections of a study's file: texts, sizes, columns, variants, and the parts of which each is a grid of cells.

In: values from studies/NAME.yaml. Out: checked, frozen sections. Always: what two sections must agree on is checked
where they meet (scripts/replication/config.py).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import InputError
from common.ranges import LARGEST_SEED, MOST_STEPS, MOST_TOKENS, check_range


@dataclass(frozen=True)
class CorpusSettings:
    """A training text and its held-out part."""

    name: str
    """what stages call it"""
    input: list[str] | None = None
    """text, as `python -m data prepare --input` takes it"""
    vocab_size: int = 2048
    """entries of the tokenizer that is trained on `input`"""
    recipe: str | None = None
    """instead of a text: documents made up by one of the recipes of scripts/replication/corpora.py"""
    tokens: int = 1_000_000
    """about so many of them"""
    prepared: str | None = None
    """instead of both: a folder with train/ and validation/, as `python -m data prepare` leaves it"""

    def __post_init__(self) -> None:
        check_range(self, "corpora: ", "vocab_size", low=2, high=2**24)
        check_range(self, "corpora: ", "tokens", low=1, high=MOST_TOKENS)
        if [self.input, self.recipe, self.prepared].count(None) != 2:
            raise InputError(f"corpora: {self.name}: name an input, a recipe or a prepared folder, one of them")


@dataclass(frozen=True)
class SizeSettings:
    """The sizes of a model, alike for all kinds."""

    name: str
    """what parts call it"""
    model: dict[str, Any]
    """settings of the section `model`"""
    tokens_per_second: float
    """of one cell in training, beside the others: what estimates start from until something is measured"""
    training: dict[str, Any] = field(default_factory=dict)
    """settings of all runs of this size, as in parallel"""
    nodes: int = 1
    """of a Slurm job"""

    def __post_init__(self) -> None:
        check_range(self, "sizes: ", "tokens_per_second", above=0, high=1e12)
        check_range(self, "sizes: ", "nodes", low=1, high=2**16)


@dataclass(frozen=True)
class ColumnSettings:
    """A kind of attention and its reading: a column of the tables."""

    name: str
    """what parts and tables call it"""
    model: dict[str, Any]
    """settings of the section `model`"""


@dataclass(frozen=True)
class VariantSettings:
    """An ablation: what a model has otherwise than its column says."""

    name: str
    """what parts and tables call it"""
    model: dict[str, Any]
    """settings of the section `model`"""
    columns: list[str]
    """columns that it has a meaning for"""


@dataclass(frozen=True)
class StageSettings:
    """A training run of a cell; the next one goes on from its weights and moments."""

    corpus: str
    """its text"""
    tokens: int | None = None
    """how many, at most (default: the cell's)"""
    until: float | None = None
    """it ends with the first evaluation whose held-out loss is this or lower (default: after `tokens`)"""
    training: dict[str, Any] = field(default_factory=dict)
    """settings of its own"""

    def __post_init__(self) -> None:
        check_range(self, "stages: ", "tokens", low=1, high=MOST_TOKENS)
        check_range(self, "stages: ", "until", low=0, high=1e6)


@dataclass(frozen=True)
class SweepSettings:
    """Peak learning rates that every column tries, all the same; the best one is taken for its other cells."""

    rates: list[float]
    """the tries"""
    size: str
    """with models of this size"""
    tokens: int | None = None
    """and so many tokens (default: the part's first)"""
    seed: int = 0
    """a seed that no other cell has"""

    def __post_init__(self) -> None:
        check_range(self, "sweep.", "rates", above=0, high=10)
        check_range(self, "sweep.", "tokens", low=1, high=MOST_TOKENS)
        check_range(self, "sweep.", "seed", low=0, high=LARGEST_SEED)
        if not self.rates or len(set(self.rates)) < len(self.rates):
            raise InputError(f"sweep.rates: name different rates, at least one; are {self.rates}")


@dataclass(frozen=True)
class PartSettings:
    """One grid: every column, size, number of tokens, variant and seed."""

    name: str
    """also of its results file"""
    about: str
    """what it asks and how, for the page"""
    measures: str
    """the figure of a cell that comparisons are about, as in validation_loss, steps_to_2, needles.needles_1_asked_1"""
    stages: list[StageSettings]
    """what a cell trains, one after the other"""
    columns: list[str]
    """kinds and readings"""
    sizes: list[str]
    """of the models"""
    seeds: list[int]
    """of weights and order of the data"""
    headline: str = ""
    """what is measured, in the words of the table of headlines (default: it has no line there)"""
    better: Literal["lower", "higher"] = "lower"
    """which values of what is measured are the better ones"""
    tokens: list[int] = field(default_factory=list)
    """of the stages that do not say their own"""
    plain: bool = True
    """whether cells without a variant are part of the grid"""
    variants: list[str] = field(default_factory=list)
    """ablations"""
    sweep: SweepSettings | None = None
    """the tries of learning rates"""
    rates_from: str | None = None
    """instead: the part whose sweep chose them"""
    shows: list[str] = field(default_factory=list)
    """figures that the page has tables of (default: what is measured)"""
    targets: list[float] = field(default_factory=list)
    """held-out losses of the first stage: how many steps it takes to each is a figure, steps_to_LOSS"""
    tasks: list[str] = field(default_factory=list)
    """of scripts/evaluate.py, on the export of the last stage"""
    evaluation: list[str] = field(default_factory=list)
    """arguments for them, as in --needles.samples=20"""
    training: dict[str, Any] = field(default_factory=dict)
    """settings of all its runs, over those of the study"""
    overhead_seconds: float = 15.0
    """of a cell beside training: starts, evaluations; what estimates start from"""

    def __post_init__(self) -> None:
        where = f"parts: {self.name}: "
        check_range(self, where, "seeds", low=0, high=LARGEST_SEED)
        check_range(self, where, "tokens", low=1, high=MOST_TOKENS)
        check_range(self, where, "overhead_seconds", low=0, high=MOST_STEPS)
        if not self.stages or not self.columns or not self.sizes or not self.seeds:
            raise InputError(f"{where}stages, columns, sizes and seeds must not be empty")
        if (self.sweep is None) == (self.rates_from is None):
            raise InputError(f"{where}name either a sweep of its own or, in rates_from, the part that has one")
        if self.sweep is not None and self.sweep.seed in self.seeds:
            raise InputError(f"{where}sweep.seed: {self.sweep.seed} is one of the seeds; rates would be chosen by it")
        if (not self.tokens) != all(stage.tokens for stage in self.stages):
            raise InputError(f"{where}tokens: are for stages that say none of their own; name them there or here")


@dataclass(frozen=True)
class RoleSettings:
    """Which columns the papers' sentences are about."""

    baseline: str
    """the Transformer"""
    predecessor: str
    """DIFF"""
    subjects: list[str]
    """Shared DIFF, in each reading that is asked about"""
    others: list[str] = field(default_factory=list)
    """columns beside the papers that are compared with the baseline, too"""


@dataclass(frozen=True)
class SlurmSettings:
    """Instead of running the cells: one batch script each."""

    arguments: list[str] = field(default_factory=list)
    """for `python -m launch slurm`, as in --site.partition=gpu"""
