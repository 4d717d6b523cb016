"""Where weights come from: the starts of their run, and the runs before it, through branches and imports.

In: a checkpoint's state, and what a start knows of itself. Out: a Lineage, which the next checkpoints carry as JSON.
Always: a run that goes on keeps all that it had; a branch has its origin as the last of its parents; checkpoints of
before there was such a record have none, and what they cannot tell stands as not known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import InputError
from common.typed import check_complete, check_section
from pretrain.checkpoint.reader import CheckpointReader


@dataclass(frozen=True)
class Software:
    """What trained from a step on."""

    step: int
    commit: str | None
    """of this program, as common/software.py tells it"""
    versions: dict[str, str]


@dataclass(frozen=True)
class Begun:
    """The newest start: what would do the same again."""

    command: list[str]
    hosts: list[str]
    """each once"""


@dataclass(frozen=True)
class Ancestor:
    """A run that others go on from, at the checkpoint that they took."""

    name: str
    step: int | None = None
    """None: not known, as of a model of others"""
    tokens: int | None = None
    """that this run itself had trained on; None: not known"""
    run: str | None = None
    """its id; None where the checkpoint does not tell"""
    data: list[str] = field(default_factory=list)
    """ids of the data sets of its mixtures"""
    software: list[Software] = field(default_factory=list)


@dataclass(frozen=True)
class Lineage:
    """Of the weights of one run."""

    run: str | None = None
    """the run's id"""
    parents: list[Ancestor] = field(default_factory=list)
    """oldest first"""
    software: list[Software] = field(default_factory=list)
    """one entry for each change, oldest first"""
    begun: Begun | None = None

    def tokens_ever(self, tokens: int) -> int | None:
        """All tokens behind weights for which this run itself saw ``tokens``; None: not all are known."""
        known = [parent.tokens for parent in self.parents]
        return None if None in known else sum(filter(None, known)) + tokens

    def started(self, run: str, software: Software, command: Sequence[str], hosts: Sequence[str]) -> "Lineage":
        """With one more start of the run ``run``."""
        last = self.software[-1] if self.software else None
        is_new = last is None or (last.commit, last.versions) != (software.commit, software.versions)
        return dataclasses.replace(
            self,
            run=run,
            software=[*self.software, software] if is_new else self.software,
            begun=Begun(list(command), sorted(set(hosts))),
        )


def read_lineage(state: Mapping[str, Any], where: str) -> Lineage:
    """What a checkpoint's state says; an empty one where it says nothing.

    Args:
        where: begins the message of an error.

    Raises:
        InputError: it says something else than a lineage.
    """
    values = state.get("lineage", {})
    check_section(Lineage, values, where, "lineage")
    if values.get("begun") is not None:
        check_complete(Begun, values["begun"], f"{where}: lineage.begun")
    return Lineage(
        run=values.get("run"),
        parents=[_ancestor(entry, f"{where}: lineage.parents") for entry in values.get("parents", [])],
        software=[_software(entry, f"{where}: lineage.software") for entry in values.get("software", [])],
        begun=Begun(**values["begun"]) if values.get("begun") is not None else None,
    )


def _ancestor(values: Mapping[str, Any], where: str) -> Ancestor:
    check_complete(Ancestor, values, where)
    for key in ("step", "tokens"):
        if (values.get(key) or 0) < 0:
            raise InputError(f"{where}: '{key}' is below 0")
    return Ancestor(**{**values, "software": [_software(entry, where) for entry in values.get("software", [])]})


def _software(values: Mapping[str, Any], where: str) -> Software:
    check_complete(Software, values, where)
    return Software(**values)


def lineage_of(reader: CheckpointReader) -> Lineage:
    """What ``reader``'s checkpoint says of itself."""
    return read_lineage(reader.manifest.state, f"{reader.folder}: the trainer's state")


def descended(reader: CheckpointReader) -> Lineage:
    """Of a run that begins with the weights of ``reader``: imported ones that nobody trained here are no ancestor."""
    theirs, state = lineage_of(reader), reader.manifest.state
    counted = state.get("trainer")
    if not isinstance(counted, Mapping):
        return Lineage(parents=theirs.parents)
    tokens = counted.get("tokens")
    origin = Ancestor(
        name=reader.config.name,
        step=reader.step,
        tokens=tokens if isinstance(tokens, int) and tokens >= 0 else None,
        run=theirs.run,
        data=_data_of(state),
        software=theirs.software,
    )
    return Lineage(parents=[*theirs.parents, origin])


def _data_of(state: Mapping[str, Any]) -> list[str]:
    """The ids of all data sets, each once; a branch does not ask whether its origin's data are told rightly."""
    data = state.get("data")
    stages = data.get("stages") if isinstance(data, Mapping) else None
    found = [stage.get("datasets") for stage in stages or [] if isinstance(stage, Mapping)]
    return list(dict.fromkeys(str(name) for names in found if isinstance(names, list) for name in names))
