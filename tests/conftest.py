"""What many tests share: a small corpus of made-up text, prepared once by the real command."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORLDS = ("launch", "old", "parallel", "pretrain")
"""folders of tests of several processes, or of whole runs"""
STARTERS = ("run_world", "subprocess", "multiprocessing", "tests.old.runs", "fake_slurm")
"""what a file there says that starts some"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of worlds of processes.

    Ranks wait for each other thousands of times. Beside other tests on two cores, each of these waits takes a turn of
    the scheduler: two worlds at a time took three times as long as one after the other.
    """
    worlds = {path for path in {item.path for item in items} if _starts_a_world(path)}
    for item in items:
        if item.path in worlds:
            item.add_marker(pytest.mark.world)


def _starts_a_world(path: Path) -> bool:
    text, folder = path.read_text(), path.relative_to(ROOT / "tests").parts[0]
    if folder in WORLDS:
        return any(starter in text for starter in STARTERS)
    return re.search(r"run_world\((?!1,)", text) is not None  # a single rank waits for nobody


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_not_ignored() -> None:
    """A suite that a shell started in the background, and all that it starts, would ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _whoever_computes_is_not_interrupted() -> None:
    """Ranks, of which there are more than cores, give way when they wait, not at each message.

    A rank that is woken by each of its neighbours' messages interrupts the neighbour that computes: on two cores, steps
    of four ranks took twice as long.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@pytest.fixture(autouse=True)
def _ranks_are_other_processes() -> Iterator[None]:
    """A test that trained in its own process would make it a rank for all later tests, and for what they start."""
    yield
    assert "RANK" not in os.environ


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and validation/ of about 50,000 tokens from a vocabulary of 300."""
    folder = tmp_path_factory.mktemp("corpus")
    dice = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "def", "return", "import", "class", "self", "value"]
    texts = folder / "texts.jsonl"
    with texts.open("w") as file:
        for _ in range(800):
            file.write(json.dumps({"text": " ".join(dice.choices(words, k=60))}) + "\n")
    output = folder / "shards"
    subprocess.run(
        [sys.executable, "-m", "data", "prepare", "--input", texts, "--output", output, "--vocab-size", "300"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    return output
