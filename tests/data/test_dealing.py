"""Who takes which samples of a step: all of them, once, by number or by block."""

import numpy as np
import pytest

from common.errors import InputError
from data.batch import BatchSchedule
from data.config import CacheConfig, DataConfig, RampConfig, SkipConfig, SourceConfig
from data.dealing import Dealing
from data.stream import TokenStream, open_stream
from tests.data.helpers import random_tokens, write_dataset

LENGTH, BLOCK = 50, 4096
"""tokens of a sample; bytes of a block, which holds 40 samples of two bytes per token"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("dealing")
    sizes = (LENGTH * 40 * 48 + 11, 31_007)
    return [str(write_dataset(root / str(n), [random_tokens(size, n)])) for n, size in enumerate(sizes)]


def stream(folders: list[str], by_block: bool = True, window: int = 640, skip: bool = False) -> TokenStream:
    cache = CacheConfig(block_bytes=BLOCK)
    skips = [SkipConfig(100, 130)] if skip else []
    sources = [SourceConfig(folder) for folder in folders]
    data = DataConfig(sources, None, LENGTH, skip=skips, shuffle_window=window, shuffle_by_block=by_block, cache=cache)
    return open_stream(data, 1)


def dealing(samples: TokenStream, size: int = 64, micro_size: int = 4, ranks: int = 2) -> Dealing:
    return Dealing(samples, BatchSchedule(size, [RampConfig(5, 2 * micro_size * ranks)]), micro_size, ranks)


@pytest.mark.parametrize("by_block", [False, True])
def test_a_step_has_the_same_samples_whatever_the_split(folders: list[str], by_block: bool) -> None:
    samples = stream(folders, by_block, skip=True)
    for step, size in ((2, 12), (5, 60), (30, 60)):
        for micro_size, ranks in ((1, 1), (2, 3), (6, 1), (3, 2)):
            schedule = BatchSchedule(60, [RampConfig(5, 12)])
            deal = Dealing(samples, schedule, micro_size, ranks)
            parts = [deal.rank_samples(step, rank) for rank in range(ranks)]
            assert {len(batch) for part in parts for batch in part} == {micro_size}
            numbers = np.sort(np.concatenate([np.concatenate(part) for part in parts]))
            assert np.array_equal(numbers, schedule.first_sample(step) + np.arange(size))


@pytest.mark.parametrize("by_block", [False, True])
def test_the_place_of_a_sample_is_the_inverse(folders: list[str], by_block: bool) -> None:
    deal = dealing(stream(folders, by_block), ranks=4)
    for step in (0, 4, 9):
        for rank in range(4):
            for micro_batch, samples in enumerate(deal.rank_samples(step, rank)):
                assert {deal.place_of(sample) for sample in samples.tolist()} == {(step, rank, micro_batch)}


def chunks_read(samples: TokenStream, ranks: int, steps: int) -> list[set[tuple[int, ...]]]:
    """The chunks that each rank reads, as (source, epoch, number)."""
    deal = Dealing(samples, BatchSchedule(64), 4, ranks)
    found = []
    for rank in range(ranks):
        numbers = np.concatenate([np.concatenate(deal.rank_samples(step, rank)) for step in range(steps)])
        places = samples.order.locate(numbers)
        codes = np.stack([places.source, places.epoch, places.sample // 40], axis=1)
        found.append({tuple(code) for code in codes.tolist()})
    return found


def test_by_block_each_block_is_read_by_one_rank(folders: list[str]) -> None:
    """16 blocks in a window, 64 samples in a step: no block lies where the part of a rank ends."""
    steps = 40 * 48 // 64
    for ranks in (2, 4, 8):
        parts = chunks_read(stream(folders[:1]), ranks, steps)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 48
    apart = chunks_read(stream(folders[:1], by_block=False), 2, steps)
    assert sum(map(len, apart)) == 2 * 48


def test_where_nothing_divides_few_blocks_are_read_by_two_ranks(folders: list[str]) -> None:
    steps = 40 * 48 // 64
    parts = chunks_read(stream(folders[:1], window=17 * 40), 2, steps)
    assert len(set.union(*parts)) == 48
    assert sum(map(len, parts)) <= 48 + 2 * 3  # two at each border in each of three windows
    mixed = chunks_read(stream(folders), 2, steps)
    assert sum(map(len, mixed)) <= 1.1 * len(set.union(*mixed))


def test_blocks_are_kept_together_in_windows_only(folders: list[str]) -> None:
    with pytest.raises(InputError, match=r"^data\.shuffle_by_block: .*set data\.shuffle_window"):
        stream(folders, window=0)
