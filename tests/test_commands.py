"""Every command spells its options alike, and its guides do.

In:     `--help` of each command, the guides, the Makefile and the job script.
Out:    nothing.
Always: the list of commands is read from the tree, so that a new one is looked at.
"""

import importlib
import re
import subprocess
import sys

import pytest

from common.cli import run_command
from data.__main__ import main as data_main
from launch.__main__ import COMMANDS as LAUNCH_COMMANDS
from tests.conftest import ROOT

UNDERSCORED = re.compile(r"(?<![\w-])--[a-z0-9]+(?:_[a-z0-9]+)+(?!\w|\.\w)")
"""an option outside of sections whose name has an underscore"""
OF_OTHERS = {
    *("--model_args", "--include_path"),  # lm_eval
    *("--inject_missing_state", "--input_folder", "--output_folder"),  # DeepSpeed's conversion
}
SCRIPTS = sorted(f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("*.py") if "__main__" in path.read_text())
GUIDES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "docs/*.md", "launch/slurm/pretrain.sbatch")


@pytest.mark.parametrize("module", SCRIPTS)
def test_the_help_of_a_script_spells_options_alike(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(importlib.import_module(module).main, ["--help"]) == 0
    check(capsys.readouterr().out)


def test_the_help_of_the_training_spells_options_alike() -> None:
    """In a process of its own: it listens to signals."""
    command = [sys.executable, "-m", "pretrain", "--help"]
    check(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", LAUNCH_COMMANDS)
def test_the_help_of_a_launch_command_spells_options_alike(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(importlib.import_module(LAUNCH_COMMANDS[name][0]).main, ["--help"]) == 0
    check(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["prepare", "adopt", "show", "plan", "verify", "trace"])
def test_the_help_of_a_data_command_spells_options_alike(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(data_main, [name, "--help"]) == 0
    check(capsys.readouterr().out)


def check(page: str) -> None:
    assert "usage: " in page
    assert UNDERSCORED.findall(page) == []


def test_the_guides_and_the_code_name_options_in_that_spelling() -> None:
    places = [path for pattern in GUIDES for path in ROOT.glob(pattern)]
    places += [
        path
        for room in ("common", "data", "model", "pretrain", "launch", "scripts")
        for path in (ROOT / room).rglob("*.py")
    ]
    assert len(places) > 100
    found = {str(path.relative_to(ROOT)): set(UNDERSCORED.findall(path.read_text())) - OF_OTHERS for path in places}
    assert {name: names for name, names in found.items() if names} == {}
