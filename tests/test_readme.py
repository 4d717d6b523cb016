"""The README's commands work as they stand there, the long ones reduced."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)]

# What is shortened.
TRAINING = [
    *("--train.steps", "4", "--schedule.warmup_steps", "1", "--metrics.wandb", "false"),
    *("--batch.global_size", "2", "--batch.micro_size", "1", "--data.sequence_length", "32"),
    *("--evaluation.batches", "1", "--model.num_layers", "2"),
]


def commands(block: list[str]) -> list[str]:
    """The commands of a block, each in one line, without comments."""
    whole = "\n".join(line.split("#")[0].rstrip() for line in block).replace("\\\n", "")
    return [line.strip() for line in whole.splitlines() if line.strip()]


def test_the_first_screen_names_targets_that_exist() -> None:
    first, *_ = BLOCKS
    assert [command.split()[0] for command in commands(first)] == ["make", "make"]
    for command in commands(first):
        subprocess.run([*command.split(), "-n"], check=True, cwd=ROOT, capture_output=True)


@pytest.fixture(scope="module")
def workplace(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder in which the README's relative paths lead to the repository's files."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_texts").mkdir()
    (folder / "my_texts" / "texts.jsonl").symlink_to(corpus.parent / "texts.jsonl")
    return folder


def test_the_commands_of_an_own_run_work_one_after_the_other(workplace: Path) -> None:
    _, own, *_ = BLOCKS
    ran = []
    for command in commands(own):
        if not command.startswith("python "):
            assert command == "make setup && source .venv/bin/activate"
            continue
        words = [sys.executable, *shlex.split(command)[1:], *(TRAINING if "launch" in command else [])]
        done = subprocess.run(words, cwd=workplace, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran.append(words[1])
    assert ran == ["-m", "-m", "-m", "scripts/plan.py", "scripts/export.py", "scripts/evaluate.py", "scripts/report.py"]
    assert (workplace / "exports" / "mine" / "model.safetensors.index.json").exists()
