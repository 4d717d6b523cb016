"""The loaders that the data benchmark compares read the tokens that were written for them."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

LENGTH = 64


@pytest.mark.parametrize("name", ["ours", "megatron"])
def test_a_loader_reads_the_tokens_in_random_order(name: str, tmp_path: Path) -> None:
    loader: ModuleType = pytest.importorskip(f"scripts.data_peers.{name}")
    random = np.random.default_rng(0)
    tokens = random.integers(1, 50_000, 40_000).astype(np.uint16)
    ends = np.unique(np.append(random.integers(1, tokens.size, 50), tokens.size))
    tokens[ends - 1] = loader.EOD
    loader.write(tmp_path / "one", tokens, ends)
    next_batch = loader.open_loader([tmp_path / "one"], LENGTH, 0)
    batches = np.concatenate([next_batch() for _ in range(20)])
    assert len(np.unique(batches[:, 0] * 100_000 + batches[:, 1])) > 150  # not one sample again and again
    resumed = loader.open_loader([tmp_path / "one"], LENGTH, 80)
    assert np.array_equal(resumed(), batches[80:88])
    if name == "ours":  # the peer packs whole documents in random order; ours cuts the stream
        where = {tuple(tokens[start : start + 4].tolist()) for start in range(0, tokens.size - LENGTH, LENGTH)}
        assert all(tuple(batch[:4].tolist()) in where for batch in batches)
