"""Remote shards: a real web server on loopback that fails, stalls and lies, and readers that are killed."""

import fcntl
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from data.config import CacheConfig, DataConfig, SourceConfig
from data.lengths import LengthsConfig, sort_by_length
from data.manifest import checksum_file
from data.outlook import outlook_of
from data.run_order import RunOrder
from data.small_bpe import train_small_bpe
from data.source import open_source, tokenizer_of
from data.stream import TokenStream, open_stream
from data.verify import VerifyConfig, verify
from tests.data.helpers import random_tokens, write_dataset
from tests.data.web import WebServer

LENGTH = 512
BLOCK = 1 << 17
TOKENS = [random_tokens(400_000, 1), random_tokens(100_001, 2), random_tokens(300_000, 3)]

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin") is None,
    reason="nginx is not installed: apt-get install nginx-light",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    root = tmp_path_factory.mktemp("web")
    tokenizer = train_small_bpe(["some text to learn from, some text"], 270)
    local = write_dataset(root / "origin", TOKENS, fingerprint=tokenizer.fingerprint)
    tokenizer.save(local)
    server = WebServer(root)
    for name in ("shards", "lie", "short"):
        shutil.copytree(local, root / name, dirs_exist_ok=True)
    lie = bytearray((root / "lie" / "00000.tokens").read_bytes())
    lie[3 * BLOCK + 17] ^= 1
    (root / "lie" / "00000.tokens").write_bytes(lie)
    (root / "short" / "00000.tokens").write_bytes(lie[: 3 * BLOCK + 100])
    yield server
    server.close()


@pytest.fixture(autouse=True)
def honest(request: pytest.FixtureRequest) -> None:
    """Every test begins with a server that does nothing odd."""
    request.getfixturevalue("server").clear()


def remote(server: WebServer, folder: Path, megabytes: float = 50.0, **settings: object) -> DataConfig:
    values: dict[str, object] = {"attempts": 3, "backoff": 0.05, "timeout": 2.0, "block_bytes": BLOCK}
    cache = CacheConfig(str(folder / "cache"), megabytes / 1000, **(values | settings))  # type: ignore[arg-type]
    return DataConfig([SourceConfig(server.url)], sequence_length=LENGTH, cache=cache)


def numbers_in_block(stream: TokenStream, block: int) -> np.ndarray:
    """The samples that lie wholly in a block of the first shard."""
    samples = stream.order.locate(np.arange(1500)).sample * 2 * LENGTH
    return np.flatnonzero((samples >= block * BLOCK) & (samples + 2 * LENGTH + 2 <= (block + 1) * BLOCK))


def test_the_samples_are_those_of_the_local_copy(server: WebServer, tmp_path: Path) -> None:
    local = DataConfig([SourceConfig(str(server.root / "origin"))], sequence_length=LENGTH)
    numbers = np.arange(1500)
    expected = open_stream(local, 1).fetch(numbers)
    stream = open_stream(remote(server, tmp_path), 1)
    assert np.array_equal(stream.fetch(numbers), expected)
    fetched = Counter(line for line in server.requests("206") if ".tokens" in line)
    assert len(fetched) == sum(-(-2 * tokens.size // BLOCK) for tokens in TOKENS)
    assert set(fetched.values()) == {1}
    assert np.array_equal(open_stream(remote(server, tmp_path), 1).fetch(numbers), expected)
    assert Counter(line for line in server.requests("206") if ".tokens" in line) == fetched


def test_with_a_window_a_small_cache_fetches_every_block_once(server: WebServer, tmp_path: Path) -> None:
    config = remote(server, tmp_path, megabytes=0.8)
    config = DataConfig(config.train, sequence_length=LENGTH, cache=config.cache, shuffle_window=256)
    stream = open_stream(config, 1)
    for start in range(0, 1500, 16):
        stream.fetch(np.arange(start, start + 16))
    fetched = Counter(line for line in server.requests("206") if ".tokens" in line)
    assert max(fetched.values()) <= 2  # blocks at the borders of chunks belong to two windows
    assert sum(fetched.values()) < 1.7 * len(fetched)


def test_prefetched_blocks_are_there_when_they_are_read(server: WebServer, tmp_path: Path) -> None:
    reader = open_stream(remote(server, tmp_path), 1).sources[0].reader
    before, count = len(server.requests("206")), 5 * BLOCK // 2
    reader.prefetch(0, count)
    deadline = time.monotonic() + 10
    while len(server.requests("206")) < before + 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    expected = reader.read(0, count)
    checksums = [line for line in server.requests("200") if checksum_file(0) in line]
    assert len(checksums) == 1  # though the blocks came at the same time
    server.turn("fail", on=True)
    assert np.array_equal(reader.read(0, count), expected)


def test_a_server_that_fails_for_a_while_is_waited_for(server: WebServer, tmp_path: Path) -> None:
    stream = open_stream(remote(server, tmp_path, attempts=8), 1)
    server.turn("fail", on=True)

    def repair() -> None:
        while len(server.requests("503")) < 3:
            time.sleep(0.01)
        server.turn("fail", on=False)

    thread = threading.Thread(target=repair)
    thread.start()
    assert stream.fetch(np.arange(4)).shape == (4, LENGTH + 1)
    thread.join()
    assert len(server.requests("503")) >= 3


@pytest.mark.parametrize(
    ("switch", "message"),
    [
        ("fail", r"shards/0000.*: not readable after 3 tries: .*503"),
        ("stall", r"shards/0000.*: not readable after 3 tries: .*[Tt]imeout"),
        ("whole", r"shards/00000\.tokens: not readable after 3 tries: .* 800000 bytes came instead of 131072"),
        ("short", r"shards/00000\.tokens: not readable after 3 tries: "),
        ("lie", rf"00000\.tokens: shard 0, block 6 \(bytes {3 * BLOCK} to .*came like this twice"),
    ],
)
def test_a_server_that_goes_wrong_is_named_and_never_trained_on(
    server: WebServer, tmp_path: Path, switch: str, message: str
) -> None:
    stream = open_stream(remote(server, tmp_path, timeout=0.5), 1)
    numbers = numbers_in_block(stream, 3)[:1]
    server.turn(switch, on=True)
    with pytest.raises(InputError, match=message):
        stream.fetch(numbers)
    server.turn(switch, on=False)
    expected = np.concatenate(TOKENS)
    place = int(stream.order.locate(numbers).sample[0]) * LENGTH
    assert np.array_equal(stream.fetch(numbers)[0], expected[place : place + LENGTH + 1])


def test_a_lie_told_once_is_fetched_again(server: WebServer, tmp_path: Path) -> None:
    stream = open_stream(remote(server, tmp_path), 1)
    numbers = numbers_in_block(stream, 3)[:1]
    stream.fetch(numbers_in_block(stream, 1)[:1])  # the checksums are there
    server.clear()
    server.turn("lie", on=True)

    def repair() -> None:
        while not server.requests("206"):
            time.sleep(0.0005)
        server.turn("lie", on=False)

    thread = threading.Thread(target=repair)
    thread.start()
    for _ in range(20):  # the second try may come before the repair; then this one is an error, and the next is right
        try:
            tokens = stream.fetch(numbers)[0]
            break
        except InputError as error:
            assert "came like this twice" in str(error)
    thread.join()
    place = int(stream.order.locate(numbers).sample[0]) * LENGTH
    assert np.array_equal(tokens, np.concatenate(TOKENS)[place : place + LENGTH + 1])
    assert len(server.requests("206")) >= 2


def test_damage_in_the_cache_is_mended_from_the_origin(server: WebServer, tmp_path: Path) -> None:
    stream = open_stream(remote(server, tmp_path), 1)
    before = stream.fetch(np.arange(200))
    for path in (path for path in (tmp_path / "cache").rglob("*") if path.is_file()):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert np.array_equal(open_stream(remote(server, tmp_path), 1).fetch(np.arange(200)), before)


def test_what_is_missing_is_named_at_once(server: WebServer, tmp_path: Path) -> None:
    config = remote(server, tmp_path)
    gone = DataConfig([SourceConfig(server.url + "/nowhere")], sequence_length=LENGTH, cache=config.cache)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"shards/nowhere/manifest\.json: no such file"):
        open_stream(gone, 1)
    assert time.monotonic() - begin < 10  # the tries of a fetch that fails take longer
    with pytest.raises(InputError, match="gopher://x: cannot be read"):
        open_stream(DataConfig([SourceConfig("gopher://x")], sequence_length=LENGTH), 1)


def test_shards_from_afar_are_sorted_by_length_and_their_classes_read_from_there(
    server: WebServer, tmp_path: Path
) -> None:
    config = remote(server, tmp_path)
    for source, output in ((server.url, server.root / "shards" / "sorted"), (server.root / "origin", tmp_path / "out")):
        sort_by_length(LengthsConfig(str(source), str(output), [64], workers=1, cache=config.cache))
    streams = []
    for path in (f"{server.url}/sorted", str(tmp_path / "out")):
        data = DataConfig([SourceConfig(path, 1.0, 1.5)], sequence_length=LENGTH, cache=config.cache)
        streams.append(open_stream(data, 1))
    assert [source.name.rpartition("/")[2] for source in streams[0].sources] == ["under_64", "from_64"]
    assert np.array_equal(*(stream.fetch(np.arange(40)) for stream in streams))
    gone = DataConfig([SourceConfig(server.url, 1.0, 1.0)], sequence_length=LENGTH, cache=config.cache)
    with pytest.raises(InputError, match=r"length_power: http.*/shards is not sorted by length"):
        open_stream(gone, 1)


def test_the_tokenizer_comes_along(server: WebServer, tmp_path: Path) -> None:
    source = open_source(server.url, remote(server, tmp_path).cache)
    assert tokenizer_of(source).decode(tokenizer_of(source).encode("some text")) == "some text"


def test_plan_and_verify_look_at_the_origin(server: WebServer, tmp_path: Path) -> None:
    config = remote(server, tmp_path)
    assert outlook_of(RunOrder(data=config)).problems == []
    assert verify(VerifyConfig([server.url], workers=1, cache=config.cache))[0].is_whole
    open_stream(config, 1).fetch(np.arange(1500))
    server.turn("short", on=True)
    (problem,) = outlook_of(RunOrder(data=config)).problems
    assert f"00000.tokens: {3 * BLOCK + 100} bytes, expected 800000: truncated" in problem
    server.clear()
    server.turn("lie", on=True)
    (verdict,) = verify(VerifyConfig([server.url], workers=1, cache=config.cache))
    assert [(damage.shard, damage.page) for damage in verdict.damages] == [(0, 6)]


def read_on(config: DataConfig, seed: int, rounds: int) -> None:
    """One process of a node: reads samples in an order of its own and compares each with the truth."""
    stream = open_stream(config, 1)
    tokens = np.concatenate(TOKENS)
    choice = np.random.default_rng(seed)
    for _ in range(rounds):
        numbers = choice.integers(0, 1500, 8)
        starts = stream.order.locate(numbers).sample * LENGTH
        expected = np.stack([tokens[start : start + LENGTH + 1] for start in starts.tolist()])
        if not np.array_equal(stream.fetch(numbers), expected):
            os._exit(1)
    os._exit(0)  # without the exit handlers of the tests' own process


def start_reader(config: DataConfig, seed: int, rounds: int) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=read_on, args=(config, seed, rounds))
    process.start()
    return process


def test_eight_processes_on_an_empty_cache_fetch_each_block_once(server: WebServer, tmp_path: Path) -> None:
    readers = [start_reader(remote(server, tmp_path, timeout=60.0), seed, rounds=100) for seed in range(8)]
    for reader in readers:
        reader.join(120)
    assert [reader.exitcode for reader in readers] == [0] * 8
    fetched = Counter(line for line in server.requests("206"))
    assert set(fetched.values()) == {1}


def test_processes_killed_at_random_moments_leave_no_corrupt_cache_and_no_lock(
    server: WebServer, tmp_path: Path
) -> None:
    """With a cache far smaller than the data, so that blocks come and go all the time."""
    config = remote(server, tmp_path, megabytes=0.5, timeout=60.0)
    chance = random.Random(0)
    readers = [start_reader(config, seed, rounds=10**9) for seed in range(8)]
    while not list((tmp_path / "cache").glob("*/*")):  # on a busy machine they need a while to begin
        time.sleep(0.01)
    for kill in range(40):
        time.sleep(chance.uniform(0.0, 0.1))
        victim = chance.randrange(8)
        readers[victim].kill()
        readers[victim].join()
        assert readers[victim].exitcode == -9, "a reader found wrong tokens"
        readers[victim] = start_reader(config, 100 + kill, rounds=10**9)
    for reader in readers:
        reader.kill()
        reader.join()
        assert reader.exitcode == -9, "a reader found wrong tokens"
    shelves = list((tmp_path / "cache").glob("*/*"))
    assert shelves
    for shelf in shelves:
        descriptor = os.open(shelf, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    last = [start_reader(config, 900 + seed, rounds=20) for seed in range(8)]
    for reader in last:
        reader.join(120)
    assert [reader.exitcode for reader in last] == [0] * 8
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".partial"]
    assert sum(path.stat().st_size for path in files) <= 0.5e6
