"""Token shards in an S3-compatible store (moto's, on loopback) that answers late and spoils answers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.batch import BatchSchedule
from data.config import CacheConfig, DataConfig, SourceConfig
from data.dealing import Dealing
from data.stream import TokenStream, open_stream
from scripts.stream.lab import bytes_in
from scripts.stream.store import CREDENTIALS, FAULTS, Server
from tests.data.helpers import random_tokens, write_dataset

LENGTH, BLOCK, CHUNKS = 64, 1 << 17, 24
"""tokens of a sample; bytes of a block, which holds 1024 samples of two bytes per token; blocks in all"""
STEP, WINDOW = 256, 8 * 1024


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shard = CHUNKS * BLOCK // 4  # tokens of one of two shards; the last sample needs one token more
    tokens = [random_tokens(shard, 1), random_tokens(shard + 1, 2)]
    return write_dataset(tmp_path_factory.mktemp("store") / "mine", tokens)


@pytest.fixture(scope="module")
def server(local: Path) -> Iterator[Server]:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with pytest.MonkeyPatch.context() as environment:
        server = Server("127.0.0.1", 0, latency=0.005)
        server.put(local)
        for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": server.url}).items():
            environment.setenv(name, value)
        yield server
        server.close()


def stream(path: str, cache: Path, megabytes: float = 8.0) -> TokenStream:
    settings = CacheConfig(str(cache), megabytes / 1000, BLOCK, connections=4, backoff=0.01)
    data = DataConfig([SourceConfig(path)], None, LENGTH, shuffle_window=WINDOW, shuffle_by_block=True, cache=settings)
    return open_stream(data, 1)


def test_two_nodes_read_every_token_through_small_caches_and_fetch_it_once(
    server: Server, local: Path, tmp_path: Path
) -> None:
    """Every sixth answer is spoiled: what is read is right all the same, and costs the spoiled bytes only."""
    before = server.store.tally()
    server.store.spoil(6)
    truth = stream(str(local), tmp_path)
    steps = CHUNKS * 1024 // STEP
    for node in range(2):
        far, cache = stream("s3://corpus/mine", tmp_path / str(node), megabytes=3.0), tmp_path / str(node)
        dealing = Dealing(far, BatchSchedule(STEP), STEP // 2, 2)

        def numbers(step: int, dealing: Dealing = dealing, node: int = node) -> np.ndarray:
            return dealing.rank_samples(step, node)[0]

        with far.look_ahead(numbers, 0, steps, processes=1) as ahead:
            for step in range(steps):
                ahead.reached(step)
                assert np.array_equal(far.fetch(numbers(step)), truth.fetch(numbers(step)))
                ahead.stepped(0.01)
                assert bytes_in(cache) <= 3e6
    server.store.spoil(0)
    sent = {key: value - before[key] for key, value in server.store.tally().items() if key != "faults"}
    used = 2 * LENGTH * CHUNKS * 1024
    page = 1 << 16  # the one token after a block costs a page of it: half a block here, a 128th at the usual size
    assert sent["bytes"] - sent["spoiled_bytes"] <= 1.01 * (used + CHUNKS * page)
    assert set(server.store.tally()["faults"]) == set(FAULTS)
