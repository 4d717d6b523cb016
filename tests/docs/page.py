"""A page of commands: its blocks, and what runs their lines without a new interpreter for each.

In: a page's Markdown, the words of a command. Out: sections of blocks; a command's exit status and what its ranks have
printed. Always: a command's own entry point gets its own arguments, in the folder that is the current one; only the
processes of a training are forked from the server of tests/world.py instead of being started by torchrun.
"""

import importlib
import os
import re
import runpy
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from common.cli import run_command
from launch import local
from launch.torchrun import NodePlan
from tests.world import run_world

FILE = re.compile(r"# ([\w./]+\.(?:py|yaml))\n")
"""the first line of a block that is a file"""


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    section: str
    language: str
    text: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of its commands, comments and prompts left out."""
        joined = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined]
        return [line for line in words if line]

    @property
    def file(self) -> str | None:
        """Which file it is."""
        found = FILE.match(self.text)
        return found[1] if found else None


def blocks_of(page: str) -> Iterator[Block]:
    """All blocks, in order."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        heading = section.partition("\n")[0]
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL):
            yield Block(heading, language, text)


def run_words(words: list[str]) -> int:
    """Runs a command of ``environment python ... arguments``; returns its exit status."""
    settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
    program, *arguments = words[len(settings) :]
    environment = dict(setting.split("=", 1) for setting in settings)
    with patch.dict(os.environ, environment), patch.object(sys, "argv", [program, *arguments]):
        assert program == "python", words
        place, rest = (arguments[:2], arguments[2:]) if arguments[0] == "-m" else (arguments[:1], arguments[1:])
        if place == ["-m", "pretrain"]:
            return _run_ranks(1, rest)
        if place == ["-m", "launch"] and rest[0] == "local":
            with patch.object(local, "run_node", _run_node):
                return run_command(local.main, rest[1:])
        main = entry_point(place)
        if main is not None:
            return run_command(main, rest)
        runpy.run_path(place[0], run_name="__main__")
        return 0


def entry_point(place: list[str]) -> Callable[[list[str]], int | None] | None:
    """The function behind `python -m ROOM` or `python scripts/NAME.py`; None for a file of the page's own."""
    if place[0] == "-m":
        name = f"{place[1]}.__main__"
    elif place[0].startswith("scripts/"):
        name = place[0].removesuffix(".py").replace("/", ".")
    else:
        return None
    main: Callable[[list[str]], int | None] = importlib.import_module(name).main
    return main


def _run_node(plan: NodePlan, command: list[str], run_folder: Path) -> int:
    """In the place of launch/torchrun.py's."""
    return _run_ranks(plan.processes, command[1:])


def _run_ranks(count: int, arguments: list[str]) -> int:
    statuses, texts = zip(*run_world(count, _rank, arguments, str(Path.cwd()), dict(os.environ)), strict=True)
    print("".join(texts))
    return max(statuses)


def _rank(arguments: list[str], folder: str, environment: dict[str, str]) -> tuple[int, str]:
    """One process of `python -m pretrain`, and what it has printed."""
    os.chdir(folder)
    os.environ.update(environment)  # which has no rank's variables
    sys.argv = ["pretrain", *arguments]
    from pretrain.__main__ import main

    with tempfile.TemporaryFile("w+") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        status = run_command(main, arguments, quiet=os.environ["RANK"] != "0", training=True)
        sys.stdout.flush()
        sys.stderr.flush()
        output.seek(0)
        return status, output.read()
