"""A small corpus, prepared once for all tests of the room."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from data.prepare import PrepareConfig, prepare

TEXT = "the cat sat on a mat while seven grey geese flew over quiet water; nobody spoke, and the evening fell"
WORDS = re.findall(r"\S+", TEXT)


def sentences(seed: int, count: int) -> str:
    """``count`` sentences of made-up text."""
    random = np.random.default_rng(seed)
    return "\n".join(" ".join(random.choice(WORDS, 12)).capitalize() + f" {seed}." for _ in range(count))


@pytest.fixture(scope="session")
def corpus_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four JSONL files of 60 documents each; ten documents stand in two files."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = [sentences(seed, 3 + seed % 5) for seed in range(230)]
    documents += documents[:10]
    files = []
    for number in range(4):
        file = folder / f"{number}.jsonl"
        rows = (json.dumps({"text": text}) for text in documents[number * 60 : number * 60 + 60])
        file.write_text("\n".join(rows) + "\n")
        files.append(str(file))
    return files


@pytest.fixture(scope="session")
def prepared(corpus_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with train/ and validation/ of ``corpus_files``."""
    output = tmp_path_factory.mktemp("prepared") / "shards"
    prepare(PrepareConfig(corpus_files, str(output), vocab_size=400, validation=0.1, shard_bytes=4096, workers=1))
    return output
