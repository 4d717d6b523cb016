"""What many tests share: a small corpus of made-up text, prepared once by the real command."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
        [sys.executable, "-m", "data", "prepare", "--input", texts, "--output", output, "--vocab_size", "300"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    return output
