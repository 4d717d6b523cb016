"""What a check says: one line, and how bad it is.

In: the checks. Out: lines for the log, and one InputError that names all that must not be trained on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.errors import InputError


class Level(StrEnum):
    """Whether a finding forbids training."""

    OK = "ok"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, and what was found."""

    what: str
    text: str
    level: Level = Level.OK

    def __str__(self) -> str:
        return f"preflight {self.level:<7} {self.what}: {self.text}"


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raises InputError with all errors among ``findings``, if any."""
    errors = [f"{finding.what}: {finding.text}" for finding in findings if finding.level is Level.ERROR]
    if errors:
        raise InputError(f"preflight: {'; '.join(errors)}")


def by_value(values: Sequence[tuple[str, str]]) -> str:
    """Which nodes have which value: "2.13.0 on node1, node3; 2.12.0 on node2", the most common first."""
    nodes: dict[str, list[str]] = {}
    for node, value in values:
        nodes.setdefault(value, []).append(node)
    ordered = sorted(nodes.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{value} on {', '.join(dict.fromkeys(names))}" for value, names in ordered)
