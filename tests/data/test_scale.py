"""A trillion tokens: opened, resumed and mapped without work that grows with their number.

The figures are scripts/bench_data.py's. The bounds here are ten times the bars, so that a busy machine fails no test,
while anything that reads, lists or permutes all of a trillion tokens does.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data.config import DataConfig
from data.stream import open_stream
from scripts.data_peers.measure import resident_bytes
from scripts.data_peers.trillion import (
    LENGTH,
    STEPS,
    first_batch,
    global_batch,
    milliseconds,
    resume,
    trillion_config,
    write_trillion,
)


@pytest.fixture(scope="module", params=[1, 100], ids=["one source", "a hundred sources"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return trillion_config(write_trillion(tmp_path_factory.mktemp("trillion"), request.param))


def test_the_first_batch_needs_neither_time_nor_memory(config: DataConfig) -> None:
    memory = resident_bytes()
    stream = first_batch(config, 0)
    assert sum(source.manifest.tokens for source in stream.sources) > 1e12
    assert resident_bytes() - memory < 50e6
    assert milliseconds(partial(first_batch, config, 0), bound=1000) < 1000


def test_resuming_anywhere_takes_as_long_as_starting(config: DataConfig) -> None:
    start = milliseconds(partial(first_batch, config, 0))
    for step in STEPS:
        state = open_stream(config, 1).state(step * 2048)
        assert milliseconds(partial(resume, config, step, state), bound=start + 100) < start + 100


def test_a_global_batch_of_2048_samples_is_mapped_at_once(config: DataConfig) -> None:
    stream = open_stream(config, 1)
    for step in (0, 50_000):
        assert milliseconds(partial(stream.order.locate, global_batch(step)), bound=50) < 50


def test_no_sample_is_lost_far_beyond_32_bits(tmp_path: Path) -> None:
    stream = open_stream(trillion_config(write_trillion(tmp_path, 1)), 1)
    samples = stream.sources[0].manifest.num_samples(LENGTH)
    numbers = np.array([0, samples - 1, samples, 40 * samples + 17])
    places = stream.order.locate(numbers)
    assert places.epoch.tolist() == [0, 0, 1, 40]
    for number, epoch, sample in zip(numbers, places.epoch, places.sample, strict=True):
        seen = [one.number for one in stream.order.occurrences(0, 0, int(sample), 41 * samples) if one.epoch == epoch]
        assert seen == [number]
