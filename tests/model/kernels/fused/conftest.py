"""These tests run in a process that interprets Triton: see tests/model/kernels/test_fused.py."""

import os
import random

import pytest

from model.kernels.fused.tiles import Tile

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
SIDES = [(16, 16), (16, 32), (32, 16)]


@pytest.fixture(autouse=True)
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that short sequences are several of; which one a kernel gets is drawn for each test."""
    dice = random.Random(request.node.name)
    drawn = {
        kernel: Tile(*dice.choice(SIDES), warps=4, stages=1, apart=dice.random() < 0.5)
        for kernel in ("forward", "keys", "queries")
    }
    monkeypatch.setattr("model.kernels.fused.launch.tile_of", lambda kernel, *sizes: drawn[kernel])
