"""A trillion tokens: opened, resumed and mapped without work that grows with their number.

The figures are scripts/bench_data.py's. The bounds here are ten times the bars, so that a busy machine fails no test,
while anything that reads, lists or permutes all of a trillion tokens does.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import psutil
import pytest

from data.config import DataConfig, SourceConfig
from data.stream import TokenStream, open_stream
from tests.data.helpers import write_sparse_dataset

SHARD_TOKENS = 1 << 28
LENGTH = 4096


@pytest.fixture(scope="module")
def one_source(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = write_sparse_dataset(tmp_path_factory.mktemp("giant") / "one", 3726, SHARD_TOKENS, marker=1)
    return DataConfig([SourceConfig(str(folder))], sequence_length=LENGTH)


@pytest.fixture(scope="module")
def hundred_sources(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("giant")
    sources = []
    for number in range(100):
        path = write_sparse_dataset(folder / str(number), 38, SHARD_TOKENS - number, marker=1)
        sources.append(SourceConfig(str(path), weight=1.0 + number))
    return DataConfig(sources, sequence_length=LENGTH)


def milliseconds(action: Callable[[], object], bound: float = 0.0) -> float:
    """The best of up to 20 tries, fewer once it is below ``bound``: other work on the machine only adds to it."""
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        action()
        best = min(best, 1e3 * (time.perf_counter() - begin))
        if best < bound:
            break
    return best


def first_batch(config: DataConfig, step: int) -> TokenStream:
    stream = open_stream(config, 1)
    assert stream.fetch(np.arange(step * 2048, step * 2048 + 16)).shape == (16, LENGTH + 1)
    return stream


@pytest.mark.parametrize("name", ["one_source", "hundred_sources"])
def test_the_first_batch_needs_neither_time_nor_memory(name: str, request: pytest.FixtureRequest) -> None:
    config: DataConfig = request.getfixturevalue(name)
    memory = psutil.Process().memory_info().rss
    stream = first_batch(config, 0)
    assert sum(source.manifest.tokens for source in stream.sources) > 1e12
    assert psutil.Process().memory_info().rss - memory < 50e6
    assert milliseconds(lambda: first_batch(config, 0), bound=1000) < 1000


def test_resuming_anywhere_takes_as_long_as_starting(one_source: DataConfig) -> None:
    start = milliseconds(lambda: first_batch(one_source, 0))
    for step in (1, 1000, 119_000):
        state = open_stream(one_source, 1).state(step * 2048)

        def resume(step: int = step, state: dict[str, object] = state) -> None:
            first_batch(one_source, step).check_state(state)

        assert milliseconds(resume, bound=start + 100) < start + 100


@pytest.mark.parametrize("name", ["one_source", "hundred_sources"])
def test_a_global_batch_of_2048_samples_is_mapped_at_once(name: str, request: pytest.FixtureRequest) -> None:
    stream = open_stream(request.getfixturevalue(name), 1)
    for step in (0, 50_000):
        numbers = np.arange(step * 2048, step * 2048 + 2048)
        assert milliseconds(partial(stream.order.locate, numbers), bound=50) < 50


def test_no_sample_is_lost_far_beyond_32_bits(one_source: DataConfig) -> None:
    stream = open_stream(one_source, 1)
    samples = stream.sources[0].manifest.num_samples(LENGTH)
    numbers = np.array([0, samples - 1, samples, 40 * samples + 17])
    places = stream.order.locate(numbers)
    assert places.epoch.tolist() == [0, 0, 1, 40]
    for number, epoch, sample in zip(numbers, places.epoch, places.sample, strict=True):
        seen = [one.number for one in stream.order.occurrences(0, 0, int(sample), 41 * samples) if one.epoch == epoch]
        assert seen == [number]
