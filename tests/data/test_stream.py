"""The stream: a pure function of config, seed and sample number; its state; what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from data.batch import BatchSchedule
from data.config import CacheConfig, DataConfig, SkipConfig, SourceConfig, StageConfig
from data.stream import open_stream, open_validation
from tests.data.helpers import random_tokens, write_dataset

LENGTH = 64


@pytest.fixture(scope="module")
def shards() -> list[np.ndarray]:
    return [random_tokens(count, seed) for seed, count in enumerate((50_000, 7, 40_003, 33_000))]


@pytest.fixture(scope="module")
def folder(shards: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("stream") / "one", shards))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("stream") / "two", [random_tokens(9_000, 99, dtype="uint32")]))


def config(*paths: str, **settings: Any) -> DataConfig:
    return DataConfig([SourceConfig(path) for path in paths], sequence_length=LENGTH, **settings)


def test_samples_are_slices_of_the_logical_stream_and_overlap_by_one(folder: str, shards: list[np.ndarray]) -> None:
    stream = open_stream(config(folder), seed=1)
    tokens = np.concatenate(shards)
    numbers = np.arange((len(tokens) - 1) // LENGTH)
    samples = stream.fetch(numbers)
    assert samples.dtype == np.int64
    places = stream.order.locate(numbers).sample
    for sample, place in zip(samples, places.tolist(), strict=True):
        assert np.array_equal(sample, tokens[place * LENGTH : place * LENGTH + LENGTH + 1])
    assert sorted(places.tolist()) == numbers.tolist()


def test_a_sample_depends_on_seed_and_number_only(folder: str, other: str) -> None:
    numbers = np.random.default_rng(0).integers(0, 5000, 64)
    one = open_stream(config(folder, other), seed=1).fetch(numbers)
    again = open_stream(config(folder, other), seed=1)
    assert np.array_equal(one, np.stack([again.fetch(numbers[place : place + 1])[0] for place in range(64)]))
    assert not np.array_equal(one, open_stream(config(folder, other), seed=2).fetch(numbers))


def test_any_split_over_ranks_reads_the_same_global_batch(folder: str, other: str) -> None:
    stream = open_stream(config(folder, other), seed=1)
    whole = stream.fetch(np.arange(48, 96))
    for data_size, micro_size in ((1, 8), (2, 12), (3, 4), (6, 1)):
        parts = [
            stream.fetch(samples)
            for rank in range(data_size)
            for samples in BatchSchedule(24).rank_samples(2, micro_size, data_size, rank)
        ]
        parts += [
            stream.fetch(samples)
            for rank in range(data_size)
            for samples in BatchSchedule(24).rank_samples(3, micro_size, data_size, rank)
        ]
        assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, whole))


def test_moving_the_files_changes_nothing(folder: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(folder).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    numbers = np.arange(100)
    assert np.array_equal(
        open_stream(config(folder), 1).fetch(numbers), open_stream(config(str(moved)), 1).fetch(numbers)
    )


def test_held_out_samples_come_in_the_order_of_the_shards(folder: str, shards: list[np.ndarray]) -> None:
    validation = open_validation(config(validation=folder))
    assert validation is not None
    tokens = np.concatenate(shards)
    assert validation.num_samples == (len(tokens) - 1) // LENGTH
    last = validation.num_samples - 1
    assert np.array_equal(validation.fetch(np.array([last]))[0], tokens[last * LENGTH : last * LENGTH + LENGTH + 1])
    assert validation.bytes_per_token == 4.0
    assert open_validation(config()) is None


def test_skipped_samples_make_later_ones_move_up(folder: str) -> None:
    plain, skipping = (open_stream(config(folder, skip=skip), 1) for skip in ([], [SkipConfig(10, 19)]))
    assert np.array_equal(skipping.fetch(np.arange(10)), plain.fetch(np.arange(10)))
    assert np.array_equal(skipping.fetch(np.arange(10, 50)), plain.fetch(np.arange(20, 60)))


def test_the_state_is_plain_json_and_lets_the_same_run_go_on(folder: str, other: str) -> None:
    stream = open_stream(config(folder, other), 1)
    state = json.loads(json.dumps(stream.state(500)))
    assert state["consumed"] == 500
    open_stream(config(folder, other), 1).check_state(state)


@pytest.mark.parametrize(
    ("seed", "settings", "message"),
    [
        (2, {}, "^seed: .* trained with 1, now 2"),
        (1, {"shuffle_window": 64}, r"^data\.shuffle_window: .* trained with 0, now 64"),
        (1, {"shuffle_window": 64, "shuffle_by_block": True}, r"^data\.shuffle_window: .* trained with 0, now 64"),
        (1, {"skip": [SkipConfig(100, 120)]}, r"^data\.skip: .* below global sample 500 .* skip only what lies ahead"),
        (1, {"stages": [StageConfig(64 * 300, sequence_length=32)]}, "stage 1 differs .* it is new"),
    ],
)
def test_another_past_is_refused(folder: str, seed: int, settings: dict[str, Any], message: str) -> None:
    state = open_stream(config(folder), 1).state(500)
    with pytest.raises(InputError, match=message):
        open_stream(config(folder, **settings), seed).check_state(state)


def test_in_windows_the_blocks_are_part_of_the_past(folder: str) -> None:
    state = open_stream(config(folder, shuffle_window=64), 1).state(500)
    for settings, message in (
        ({"shuffle_by_block": True}, r"^data\.shuffle_by_block: the checkpoint was trained with False, now True"),
        ({"cache": CacheConfig(block_bytes=4096)}, r"^data\.cache\.block_bytes: .* trained with 8388608, now 4096"),
    ):
        changed = open_stream(config(folder, shuffle_window=64, **settings), 1)
        with pytest.raises(InputError, match=message):
            changed.check_state(state)
    older = {key: value for key, value in state.items() if key not in ("shuffle_by_block", "block_bytes")}
    open_stream(config(folder, shuffle_window=64), 1).check_state(older)
    with pytest.raises(InputError, match="shuffle_by_block"):
        open_stream(config(folder, shuffle_window=64, shuffle_by_block=True), 1).check_state(older)


def test_other_weights_or_other_data_are_refused(folder: str, other: str) -> None:
    state = open_stream(config(folder, other), 1).state(500)
    weighted = DataConfig([SourceConfig(folder, 3.0), SourceConfig(other)], sequence_length=LENGTH)
    for changed in (weighted, config(folder), config(other, folder)):
        with pytest.raises(InputError, match="stage 0 differs"):
            open_stream(changed, 1).check_state(state)


def test_another_future_is_allowed(folder: str, other: str) -> None:
    """Nothing of the past changes: neither by a skip nor by a stage that lies ahead."""
    state = open_stream(config(folder, skip=[SkipConfig(5, 6)]), 1).state(500)
    ahead = config(
        folder, skip=[SkipConfig(5, 6), SkipConfig(502, 510)], stages=[StageConfig(64 * 600, [SourceConfig(other)])]
    )
    open_stream(ahead, 1).check_state(state)


def test_a_stage_changes_mixture_and_sequence_length(folder: str, other: str, shards: list[np.ndarray]) -> None:
    stages = [StageConfig(100 * LENGTH, [SourceConfig(other)]), StageConfig(140 * LENGTH, sequence_length=32)]
    stream = open_stream(config(folder, stages=stages), 1)
    assert [stream.fetch(np.array([number])).shape[1] for number in (0, 139, 140)] == [65, 65, 33]
    assert stream.fetch(np.arange(140, 150)).shape == (10, 33)
    places = stream.order.locate(np.arange(160))
    assert set(places.source[:100]) == {0}
    assert set(places.source[100:]) == {1}
    with pytest.raises(InputError, match=r"data\.stages: the batch with global samples 136 to 143 .* \[32, 64\]"):
        stream.fetch(np.arange(136, 144))


def test_sources_that_do_not_fit_together_are_refused(folder: str, tmp_path: Path) -> None:
    tokens = [random_tokens(5000, 5)]
    tokenizer = str(write_dataset(tmp_path / "tokenizer", tokens, fingerprint="0" * 64))
    eod = str(write_dataset(tmp_path / "eod", [np.minimum(tokens[0] + 1, 999)], eod_id=1))
    short = str(write_dataset(tmp_path / "short", [random_tokens(LENGTH, 5)]))
    copy = str(write_dataset(tmp_path / "copy", tokens))
    twin = str(write_dataset(tmp_path / "twin", tokens))
    for paths, message in (
        ((folder, tokenizer), "the tokenizer of .* by hand .ffffffffffff., of .* by hand .000000000000."),
        ((folder, eod), "the end-of-document id of .* is 0, of .* it is 1"),
        ((folder, short), "64 tokens make no sample of sequence length 64"),
        ((copy, twin), "hold the same tokens"),
    ):
        with pytest.raises(InputError, match=message):
            open_stream(config(*paths), 1)


def test_bad_settings_are_refused_by_name(folder: str) -> None:
    for settings, message in (
        ({"train": []}, r"data\.train: names no folder"),
        ({"train": [SourceConfig(folder, -1.0)]}, r"data\.train: the weight of .* must be positive, is -1"),
        ({"train": [SourceConfig(folder)] * 2}, "named twice"),
        ({"sequence_length": 1}, r"data\.sequence_length: must be at least 2"),
        ({"stages": [StageConfig(9), StageConfig(5)]}, r"data\.stages\[1\]\.from_tokens: must be larger than 9"),
        ({"train": [SourceConfig(folder + "/nowhere")]}, "data.train: .*nowhere/manifest.json: no such file"),
    ):
        with pytest.raises(InputError, match=message):
            open_stream(DataConfig(**({"train": [SourceConfig(folder)]} | settings)), 1)


def test_the_folder_around_the_shards_says_where_they_are(prepared: Path) -> None:
    with pytest.raises(InputError, match=rf"data\.train: {prepared}: .* name one, such as {prepared}/train"):
        open_stream(DataConfig(train=[SourceConfig(str(prepared))]), 1)
