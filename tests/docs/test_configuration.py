"""docs/configuration.md is what scripts/reference.py makes of the code, and leaves no command out."""

import re
from dataclasses import dataclass, field, fields

import pytest

from launch.slurm.site import Site
from scripts import reference
from tests.conftest import ROOT

ROOMS = ("data", "launch", "pretrain", "scripts")


def test_the_page_is_the_one_that_make_docs_writes() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference.page(), "run `make docs`"


def test_every_command_that_takes_a_config_is_on_it() -> None:
    sources = [path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    taken = {name for source in sources for name in re.findall(r"\bparse_config\((\w+),", source)}
    assert taken - {"config_class", "Site"} == {command.config.__name__ for command in reference.COMMANDS}


def test_the_site_file_has_its_table_in_the_guide_to_clusters() -> None:
    guide = (ROOT / "docs/cluster.md").read_text()
    rows = " ".join(line.split("|")[1] for line in guide.splitlines() if line.startswith("| `"))
    assert {entry.name for entry in fields(Site)} <= set(re.findall(r"`(\w+)`", rows)) | {"processes_per_node"}


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
    monkeypatch.setattr(reference, "COMMANDS", [reference.Command("try", Outer)])
    assert reference.page().removeprefix(reference.INTRODUCTION).strip().splitlines() == [
        "## `try`",
        "",
        "The whole.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `entries` | a list | required | its list |",
        "",
        "#### `entries[]`",
        "",
        "The part below.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `entries[].size` | a whole number | required | how \\| large |",
        "| `entries[].note` | a text or null | `null` | a text over two lines |",
        "",
        "### `part`",
        "",
        "The part below.",
        "",
        "| setting | value | default | meaning |",
        "|---|---|---|---|",
        "| `part.size` | a whole number | `7` | how \\| large |",
        "| `part.note` | a text or null | `seven` | a text over two lines |",
    ]


def test_a_setting_without_a_docstring_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Silent:
        """The whole."""

        size: int

    monkeypatch.setattr(reference, "COMMANDS", [reference.Command("try", Silent)])
    with pytest.raises(KeyError, match="size"):
        reference.page()
