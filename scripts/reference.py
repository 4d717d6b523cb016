"""`python scripts/reference.py`: writes docs/configuration.md, every setting of every command that takes a config.

In: the dataclasses of settings and the docstrings of their fields. Out: one page. Always: nothing is said on the page
that the code does not say; `make docs` writes it, and a test fails when it is out of date.
"""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser
import yaml

from common.cli import run_command
from common.files import write_atomically
from common.flags import FlagParser
from common.typed import section_of, wanted
from data.adopt import AdoptConfig
from data.lengths import LengthsConfig
from data.prepare import PrepareConfig
from data.show import ShowConfig
from data.verify import VerifyConfig
from pretrain.config import RunConfig
from scripts.evaluation.settings import EvaluateConfig
from scripts.export import ExportConfig
from scripts.import_hf import ImportConfig
from scripts.replication.config import StudyConfig
from scripts.train_retrieval import RetrievalConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRODUCTION = """# Every setting

Made from the code by `make docs`; do not edit. A setting is given in the YAML file of `--config` or as
`--section.key value`, one outside of a section with hyphens, as `--run-dir value`; the last one given wins. What is
not allowed is refused in one line, before anything starts.
The settings of `python -m pretrain` are also those of `python -m launch local`, `slurm` and `preflight`, of
`python scripts/plan.py`, and of `python -m data plan` and `trace`.
"""


@dataclass(frozen=True)
class Command:
    """A command and the dataclass that its arguments become."""

    usage: str
    config: type


COMMANDS = (
    Command("python -m pretrain", RunConfig),
    Command("python -m data prepare", PrepareConfig),
    Command("python -m data adopt", AdoptConfig),
    Command("python -m data lengths", LengthsConfig),
    Command("python -m data show", ShowConfig),
    Command("python -m data verify", VerifyConfig),
    Command("python scripts/export.py", ExportConfig),
    Command("python scripts/evaluate.py", EvaluateConfig),
    Command("python scripts/import_hf.py", ImportConfig),
    Command("python scripts/train_retrieval.py", RetrievalConfig),
    Command("python scripts/study.py", StudyConfig),
)


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for command in COMMANDS:
        parts.append(f"## `{command.usage}`\n")
        parts += _section(command.config, "")
    return "\n".join(parts)


def _section(config: type, prefix: str, defaults: Any = None) -> Iterator[str]:
    """What a dataclass says of itself, the table of its settings, and after that each section below it.

    ``defaults`` is the instance that stands where nothing is said; None: the fields' own defaults.
    """
    described = docstring_parser.parse_from_object(config)
    meanings = {entry.arg_name: " ".join((entry.description or "").split()) for entry in described.params}
    hints = typing.get_type_hints(config)
    yield f"{described.short_description}\n"
    rows, sections = [], []
    for entry in dataclasses.fields(config):
        hint, name = hints[entry.name], f"{prefix}{entry.name}"
        default = _default(entry) if defaults is None else getattr(defaults, entry.name)
        section = section_of(hint)
        if section is hint:
            sections.append((f"### `{name}`", section, f"{name}.", default))
            continue
        if section is not None:
            place = f"{name}[]" if wanted(hint).startswith("a list") else name
            sections.append((f"#### `{place}`", section, f"{place}.", None))
        rows.append((f"`{name}`", wanted(hint), _in_yaml(default), meanings[entry.name]))
    if rows:
        yield "| setting | value | default | meaning |\n|---|---|---|---|"
        yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        yield ""
    for heading, section, below, default in sections:
        yield f"{heading}\n"
        yield from _section(section, below, None if default is dataclasses.MISSING else default)


def _default(entry: "dataclasses.Field[Any]") -> Any:
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()


def _in_yaml(default: Any) -> str:
    if default is dataclasses.MISSING:
        return "required"
    text = yaml.safe_dump(default, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return f"`{text}`"


def main(arguments: list[str]) -> None:
    """Writes the page."""
    FlagParser(prog="python scripts/reference.py", description=__doc__).parse_args(arguments)
    write_atomically(PAGE, page().encode())
    print(f"settings: {PAGE}")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
