"""The Dockerfile, which no test can build: what it names is there, and what it pins is what all others pin.

In:     Dockerfile, .dockerignore, Makefile, README.md, constraints.txt, setup.py.
Out:    nothing.
Always: the rules are those of Docker's own reference, as far as the file uses them.
"""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass, field

import pytest
from packaging.specifiers import SpecifierSet

from common.cli import parse_config
from pretrain.config import RunConfig
from tests.conftest import ROOT
from tests.test_packaging import declared, module_of
from tests.test_readme import BLOCKS, commands

TEXT = (ROOT / "Dockerfile").read_text()
KNOWN = {"ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)


@dataclass
class Stage:
    """One target."""

    image: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def those(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def instructions() -> list[tuple[str, str]]:
    """Name and text, comments left out and lines that go on joined."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    found = [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, text) for name, text in found]


def stages() -> dict[str, Stage]:
    defaults: dict[str, str] = {}
    found: dict[str, Stage] = {}
    for name, text in instructions():
        if name == "FROM":
            image, _, target = text.partition(" AS ")
            current = found[target] = Stage(re.sub(r"\$\{(\w+)\}", lambda part: defaults[part[1]], image))
        elif found:
            current.steps.append((name, text))
        else:
            key, _, value = text.partition("=")
            defaults[key] = value
    return found


STAGES = stages()


def test_there_are_the_two_targets_that_its_head_builds_and_no_instruction_that_nobody_reads() -> None:
    assert list(STAGES) == re.findall(r"docker build --target (\w+)", TEXT) == ["cpu", "cuda"]
    assert {name for name, _ in instructions()} == KNOWN


@pytest.mark.parametrize("target", STAGES)
def test_a_target_sets_up_as_everybody_does_and_runs_the_readmes_commands(target: str) -> None:
    stage = STAGES[target]
    assert "make setup" in stage.those("RUN")
    (command,) = stage.those("CMD")
    first, second = commands(BLOCKS[0])
    assert " ".join(json.loads(command)) == first
    assert f"shared-diff:cpu {second}" in TEXT
    for words in (["make", "setup"], *(line.split() for line in (first, second))):
        subprocess.run([*words, "-n"], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("target", STAGES)
def test_it_brings_what_the_readme_asks_of_a_machine(target: str) -> None:
    installs = next(step for step in STAGES[target].those("RUN") if "apt-get install" in step)
    assert {"g++", "make", "git"} <= set(shlex.split(installs))


def test_its_python_is_one_that_the_pins_are_for() -> None:
    (python,) = re.findall(r"^python:([0-9.]+)-", STAGES["cpu"].image)
    (allowed,) = re.findall(r'python_requires="([^"]+)"', (ROOT / "setup.py").read_text())
    assert SpecifierSet(allowed).contains(python)
    assert f" and {python}." in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_what_it_pins_is_pinned_alike_and_all_else_comes_from_the_constraints() -> None:
    for package, version in re.findall(r"([\w.-]+)==([\w.]+)", TEXT):
        assert PINS[package] == version
    for step in (step for stage in STAGES.values() for step in stage.those("RUN") if "pip install" in step):
        assert "-c constraints.txt" in step


def test_the_extra_that_it_names_has_what_it_says() -> None:
    (extra,) = re.findall(r"--build-arg EXTRAS=(\w+)", TEXT)
    assert {"flash_attn", module_of("liger-kernel")} <= declared()[extra]


def test_the_command_for_gpus_names_a_config_that_there_is() -> None:
    """And what it reads and writes lies in the folder that the command mounts: the image has no corpus."""
    (command,) = re.findall(r"python -m launch local (.*)", TEXT.replace("\\\n#", ""))
    config = parse_config(RunConfig, shlex.split(command), "test")
    places = (config.run_folder, config.data.validation, *(source.path for source in config.data.train))
    assert all(str(place).startswith("/data/") for place in places)


def test_the_image_holds_what_git_holds() -> None:
    """Environments, runs and corpora of who builds it stay outside; the history goes in, for the commit."""
    ignored, kept_out = ((ROOT / name).read_text().splitlines() for name in (".gitignore", ".dockerignore"))
    assert kept_out == [f"**/{line}" for line in ignored]
