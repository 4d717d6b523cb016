"""What defines a study: its models, its texts, and its parts, each a grid of cells.

In: studies/NAME.yaml. Out: a checked, frozen StudyConfig. Always: a name that a part uses is one that the study
declares; which settings a run accepts is the trainer's to say (scripts/replication/plans.py asks it).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError, nearest
from common.ranges import check_filled, check_place
from scripts.replication.sections import (
    ColumnSettings,
    CorpusSettings,
    PartSettings,
    RoleSettings,
    SizeSettings,
    SlurmSettings,
    VariantSettings,
)


@dataclass(frozen=True)
class StudyConfig:
    """Everything that a study is."""

    name: str
    """the study's name"""
    work: str
    """folder of texts, runs and exports; what is in it may be deleted at any time"""
    results: str
    """folder of the results, a file for each part; what stands there is never measured again"""
    page: str
    """the page that is made of them, in Markdown; an HTML page and pictures stand beside it"""
    corpora: list[CorpusSettings]
    """texts"""
    sizes: list[SizeSettings]
    """of models"""
    columns: list[ColumnSettings]
    """kinds and readings of attention"""
    roles: RoleSettings
    parts: list[PartSettings]
    """grids, in the order in which they are worked on"""
    variants: list[VariantSettings] = field(default_factory=list)
    """ablations"""
    training: dict[str, Any] = field(default_factory=dict)
    """settings of all runs"""
    summary: str | None = None
    """a page that has a table of the headlines between the marks `study NAME`, as README.md"""
    keep_runs: bool = False
    """keep checkpoints and exports of cells that are finished"""
    slurm: SlurmSettings | None = None
    """instead of running the cells: write a batch script for each of their runs"""

    def __post_init__(self) -> None:
        check_filled(self, "", "name", "work", "results", "page", "summary")
        check_place(self, "", "work", "results", "page", "summary")
        for what, entries in (
            ("corpora", self.corpora),
            ("sizes", self.sizes),
            ("columns", self.columns),
            ("variants", self.variants),
            ("parts", self.parts),
        ):
            names = [entry.name for entry in entries]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise InputError(f"{what}: '{twice}' stands there twice")
            for name in names:
                _check_word(what, name)
        roles = [self.roles.baseline, self.roles.predecessor, *self.roles.subjects, *self.roles.others]
        _check_known("roles", roles, self.columns)
        for number, part in enumerate(self.parts):
            self._check_part(part, self.parts[:number])

    def _check_part(self, part: PartSettings, before: Sequence[PartSettings]) -> None:
        where = f"parts: {part.name}: "
        _check_known(f"{where}columns", part.columns, self.columns)
        _check_known(f"{where}sizes", part.sizes, self.sizes)
        _check_known(f"{where}variants", part.variants, self.variants)
        _check_known(f"{where}corpus", [stage.corpus for stage in part.stages], self.corpora)
        if part.sweep is not None:
            _check_known(f"{where}sweep.size", [part.sweep.size], self.sizes)
        if part.rates_from is not None:
            sweeps = [earlier for earlier in before if earlier.sweep is not None]
            _check_known(f"{where}rates_from", [part.rates_from], sweeps)
            missing = set(part.columns) - set(self.part(part.rates_from).columns)
            if missing:
                raise InputError(f"{where}rates_from: {part.rates_from} has no rate for {', '.join(sorted(missing))}")
        for name in part.variants:
            _check_known(f"variants: {name}: columns", self.variant(name).columns, self.columns)

    def part(self, name: str) -> PartSettings:
        """The part of this name; as with all of these, it is known to be there."""
        return next(part for part in self.parts if part.name == name)

    def size(self, name: str) -> SizeSettings:
        """The size of this name."""
        return next(size for size in self.sizes if size.name == name)

    def column(self, name: str) -> ColumnSettings:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)

    def variant(self, name: str) -> VariantSettings:
        """The variant of this name."""
        return next(variant for variant in self.variants if variant.name == name)

    def corpus(self, name: str) -> CorpusSettings:
        """The corpus of this name."""
        return next(corpus for corpus in self.corpora if corpus.name == name)


def _check_known(what: str, names: Iterable[str], entries: Sequence[Any]) -> None:
    known = [entry.name for entry in entries]
    for name in names:
        if name not in known:
            raise InputError(f"{what}: unknown '{name}'{nearest(name, known)}; known: {', '.join(known) or 'none'}")


def _check_word(what: str, name: str) -> None:
    """Names stand in labels, between slashes, and in those of files."""
    if not name or not all(letter.isalnum() or letter in "_-." for letter in name) or name.startswith("."):
        raise InputError(f"{what}: the name '{name}' must be made of letters, digits, '_', '-' and '.'")
