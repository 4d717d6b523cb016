"""Batches: the same samples for every split over ranks; where documents begin."""

import numpy as np
import pytest

from common.errors import InputError
from data.batch import BatchSchedule, document_starts
from data.config import RampConfig

SPLITS = [(1, 1), (1, 24), (2, 3), (4, 6), (3, 8), (8, 1), (12, 2), (24, 1), (1, 4)]


@pytest.mark.parametrize(("data_size", "micro_size"), SPLITS)
def test_a_global_batch_is_the_same_for_every_split(data_size: int, micro_size: int) -> None:
    ranks = [BatchSchedule(24).rank_samples(5, micro_size, data_size, rank) for rank in range(data_size)]
    assert {len(chunk) for rank in ranks for chunk in rank} == {micro_size}
    assert sorted(np.concatenate([chunk for rank in ranks for chunk in rank])) == list(range(120, 144))


def test_a_batch_that_does_not_divide_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"batch\.global_size: 24 .* micro-batches of 5 on 2 .* a multiple of 10"):
        BatchSchedule(24).rank_samples(0, 5, 2, 0)


def test_a_ramp_takes_samples_without_gaps() -> None:
    schedule = BatchSchedule(32, [RampConfig(steps=3, global_size=8), RampConfig(steps=2, global_size=16)])
    sizes = [schedule.global_size(step) for step in range(8)]
    assert sizes == [8, 8, 8, 16, 16, 32, 32, 32]
    assert [schedule.first_sample(step) for step in range(8)] == [0, 8, 16, 24, 40, 56, 88, 120]
    for step in range(8):
        samples = np.concatenate([np.concatenate(schedule.rank_samples(step, 4, 2, rank)) for rank in range(2)])
        assert sorted(samples) == list(range(schedule.first_sample(step), schedule.first_sample(step) + sizes[step]))


def test_the_place_of_a_sample_is_the_inverse() -> None:
    schedule = BatchSchedule(24, [RampConfig(steps=4, global_size=12)])
    for step in range(8):
        for rank in range(3):
            for micro_batch, samples in enumerate(schedule.rank_samples(step, 2, 3, rank)):
                for sample in samples.tolist():
                    assert schedule.place_of(sample, 2, 3) == (step, rank, micro_batch)


def test_documents_begin_after_an_eod() -> None:
    tokens_BT = np.array([[5, 0, 6, 7, 0, 0, 8], [0, 1, 2, 3, 4, 5, 0]])
    starts_BT = document_starts(tokens_BT, eod_id=0)
    assert starts_BT.dtype == np.int32
    assert starts_BT.tolist() == [[0, 0, 2, 2, 2, 5, 6], [0, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("length", [7, 13, 64])
def test_documents_longer_and_shorter_than_a_sample(length: int) -> None:
    """A sample may lie inside a document, hold many, end with the last token of one, or begin with the first."""
    lengths = [1, 2, length - 1, length, length + 1, 1, 1, 3 * length + 2, 2 * length, 5, length - 4, length]
    stream = np.concatenate([[*range(1, size), 0] for size in lengths])
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
    samples = (len(stream) - 1) // length
    tokens_BT = np.stack([stream[sample * length : (sample + 1) * length] for sample in range(samples)])
    starts_BT = document_starts(tokens_BT, eod_id=0)
    for sample in range(samples):
        for place in range(length):
            expected = max(int(begins[sample * length + place]) - sample * length, 0)
            assert starts_BT[sample, place] == expected, (sample, place)
    assert (starts_BT == 0).all(axis=1).any()
    assert max(len(set(row)) for row in starts_BT.tolist()) > 3
