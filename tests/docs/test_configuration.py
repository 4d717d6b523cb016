"""docs/configuration.md is what scripts/reference.py makes of the code, and leaves no command out."""

import re
from dataclasses import dataclass, field

import pytest

from scripts import reference
from tests.conftest import ROOT

ROOMS = ("data", "launch", "pretrain", "scripts")


def test_the_page_is_the_one_that_make_docs_writes() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference.page(), "run `make docs`"


def test_every_command_that_takes_a_config_is_on_it() -> None:
    sources = [path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    taken = {name for source in sources for name in re.findall(r"\bparse_config\((\w+),", source)}
    assert taken - {"config_class"} == {command.config.__name__ for command in reference.COMMANDS}


@dataclass(frozen=True)
class Inner:
    """The part below."""

    size: int
    """how | large"""
    note: str | None = None
    """a text over
    two lines"""


@dataclass(frozen=True)
class Outer:
    """The whole."""

    entries: list[Inner]
    """its list"""
    part: Inner = field(default_factory=lambda: Inner(7, "seven"))


def test_sections_lists_and_defaults_of_a_part_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "COMMANDS", [reference.Command("try", Outer, "x.")])
    assert reference.page().removeprefix(reference.INTRODUCTION).strip().splitlines() == [
        "## `try`",
        "",
        "The whole.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `x.entries` | a list | required | its list |",
        "",
        "#### `x.entries[]`",
        "",
        "The part below.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `x.entries[].size` | a whole number | required | how \\| large |",
        "| `x.entries[].note` | a text or null | `null` | a text over two lines |",
        "",
        "### `x.part`",
        "",
        "The part below.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `x.part.size` | a whole number | `7` | how \\| large |",
        "| `x.part.note` | a text or null | `seven` | a text over two lines |",
    ]


def test_a_setting_without_a_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Silent:
        """The whole."""

        size: int

    monkeypatch.setattr(reference, "COMMANDS", [reference.Command("try", Silent)])
    with pytest.raises(KeyError, match="size"):
        reference.page()
