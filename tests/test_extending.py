"""The recipes of docs/extending.md, carried out in a copy of the tree as they stand there.

In:     docs/extending.md.
Out:    nothing.
Always: every block of a recipe is used; what it adds passes the linter; it touches as many files as the page says, and
        no more than the bound below.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.old.runs import MADE

PAGE = (ROOT / "docs/extending.md").read_text()
ROOMS = ("common", "data", "model", "pretrain", "launch", "scripts", "configs", "tests")
MOST_FILES = {
    "a kind of attention": 5,
    "an optimizer": 4,
    "an axis": 2,
    "a number from inside the model": 2,
    "an evaluation task": 2,
}
"""files of the product that a recipe may add or edit"""
BLOCK = re.compile(r"^(?:`([^`\n]+)`, (new|edited):\n\n)?```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """What a section of the page asks for."""

    new: dict[str, str]
    """path -> the file"""
    edits: dict[str, list[str]]
    """path -> places, as lines that begin with ' ', '+' or '-'"""
    commands: list[str]

    @property
    def files(self) -> set[str]:
        """What is touched, without tests."""
        return {path for path in (*self.new, *self.edits) if not path.startswith("tests/")}


def recipe(name: str) -> Recipe:
    """The section under the heading ``name``."""
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (text,) = [part for part in section if part.splitlines()[0].lower() == name]
    found = Recipe({}, {}, [])
    for path, what, language, block in BLOCK.findall(text):
        if what == "new":
            found.new[path] = block
        elif what == "edited":
            assert language == "diff", path
            found.edits.setdefault(path, []).extend(block.split("@@\n"))
        else:
            assert language == "bash", f"a block that nobody carries out:\n{block}"
            found.commands.extend(block.splitlines())
    assert text.count("```") == 2 * len(BLOCK.findall(text))
    return found


def edited(text: str, place: str, path: str) -> str:
    """``text`` with a place's lines added and removed; there must be exactly one such place."""
    lines = place.splitlines(keepends=True)
    assert all(line[0] in " +-" for line in lines), place
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    assert text.count(before) == 1, f"{path} has {text.count(before)} places like\n{before}"
    return text.replace(before, after)


@pytest.fixture
def carried_out(tmp_path: Path) -> Callable[[str], tuple[Path, list[str]]]:
    """Carries out a recipe; returns the changed tree and the recipe's commands."""

    def carry_out(name: str) -> tuple[Path, list[str]]:
        tree = tmp_path / "tree"
        for room in ROOMS:
            shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__", MADE.name))
        shutil.copy(ROOT / "pyproject.toml", tree)
        steps = recipe(name)
        for path, content in steps.new.items():
            assert not (tree / path).exists(), path
            (tree / path).write_text(content)
        for path, places in steps.edits.items():
            for place in places:
                (tree / path).write_text(edited((tree / path).read_text(), place, path))
        python = Path(sys.executable)
        for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            subprocess.run([python.with_name("ruff"), *check, *steps.new, *steps.edits], cwd=tree, check=True)
        assert f"| [{name}](#{name.replace(' ', '-')}) | {len(steps.files)} |" in PAGE
        assert len(steps.files) <= MOST_FILES[name]
        return tree, steps.commands

    return carry_out


def run(tree: Path, command: str, *more: str | Path) -> str:
    """Runs a command of the page with ``more`` words at its end; returns what it printed."""
    python, *words = shlex.split(command)
    assert python == "python"
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, *words, *more], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def training(corpus: Path) -> list[str]:
    """A few steps on a corpus with a vocabulary of 300."""
    return [
        *("--data.train", f"[{{path: {corpus}/train, weight: 1.0}}]", "--data.validation", f"{corpus}/validation"),
        *("--train.steps", "3", "--schedule.warmup_steps", "1", "--metrics.wandb", "false", "--metrics.every", "1"),
        *("--batch.global_size", "2", "--batch.micro_size", "1", "--data.sequence_length", "32"),
        *("--model.num_layers", "2", "--model.vocab_size", "320", "--evaluation.batches", "1"),
        *("--evaluation.ar_hits", "false"),
    ]


def test_a_kind_of_attention(carried_out: Callable[[str], tuple[Path, list[str]]], corpus: Path) -> None:
    tree, (test, train, plan, export) = carried_out("a kind of attention")
    assert "passed" in run(tree, test)
    assert "finished: runs/gated (3 steps" in run(tree, train, *training(corpus))
    assert "gated, 3.288 B parameters" in run(tree, plan)
    assert "logits against the trainer's model" in run(tree, export)
    assert json.loads((tree / "exports/gated/config.json").read_text())["attention"] == "gated"


def test_an_optimizer(carried_out: Callable[[str], tuple[Path, list[str]]], corpus: Path) -> None:
    tree, (test, train, plan) = carried_out("an optimizer")
    assert "passed" in run(tree, test, "-k", "lion and declares")
    assert "optimizer: Lion" in run(tree, train, *training(corpus))
    manifest = (tree / "runs/lion/checkpoints/step_00000003/manifest.json").read_text()
    assert '"exp_avg"' in manifest and "exp_avg_sq" not in manifest
    assert re.search(r"optimizer state +0\.18  Lion", run(tree, plan))


def test_an_axis(carried_out: Callable[[str], tuple[Path, list[str]]]) -> None:
    tree, (plan,) = carried_out("an axis")
    assert "64 x H100: tensor 2 x expert 2 x pipeline 1 x data 16" in run(tree, plan)


def test_a_number_from_inside_the_model(carried_out: Callable[[str], tuple[Path, list[str]]], corpus: Path) -> None:
    tree, (train,) = carried_out("a number from inside the model")
    run(tree, train, *training(corpus))
    lines = [json.loads(line) for line in (tree / "runs/numbers/metrics.jsonl").read_text().splitlines()]
    told = {line["step"]: line["telemetry"]["residual"] for line in lines if "telemetry" in line}
    assert told.keys() == {2, 3}
    assert all(len(blocks) == 2 and min(blocks) > 0 for blocks in told.values())


def test_an_evaluation_task(carried_out: Callable[[str], tuple[Path, list[str]]]) -> None:
    tree, (evaluate,) = carried_out("an evaluation task")
    model = shutil.copytree(MADE / "shared_diff/export", tree / "exports/mine")
    for code in (tree / "scripts/hub").glob("*_shared_diff.py"):
        shutil.copy(code, model)
    assert "confident" in run(tree, evaluate, "--data", MADE / "corpus/validation", "--held_out.samples", "5")
    measured = json.loads((tree / "results.json").read_text())["tasks"]["confident"]["metrics"]["confident"]
    assert 0 <= measured["low"] <= measured["value"] <= measured["high"] <= 1
    assert measured["count"] == 5
