"""The global order: every sample once per epoch, epochs counted per source over all stages, an exact inverse."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from data.order import GlobalOrder, Places, StagePlan, StageSource

IDS = ["first", "second", "third"]


def source(number: int, weight: float, samples: int) -> StageSource:
    return StageSource(number, weight, samples, chunk=5)


ONE_STAGE = [StagePlan(0, 10, (source(0, 0.6, 100), source(1, 0.3, 37), source(2, 0.1, 1500)))]
STAGES = [
    StagePlan(0, 10, (source(0, 0.5, 100), source(1, 0.5, 37))),
    StagePlan(1234, 10, (source(1, 0.8, 37), source(2, 0.2, 1500))),
    StagePlan(4000, 20, (source(1, 0.5, 18), source(2, 0.5, 750))),
]


def locate(order: GlobalOrder, count: int) -> Places:
    return order.locate(np.arange(count))


@pytest.mark.parametrize("window", [0, 40])
def test_an_epoch_of_a_source_holds_every_sample_once(window: int) -> None:
    places = locate(GlobalOrder(IDS, ONE_STAGE, seed=1, window=window), 2000)
    for number, entry in enumerate(ONE_STAGE[0].sources):
        own = places.source == number
        assert np.array_equal(places.epoch[own], np.arange(np.count_nonzero(own)) // entry.samples)
        for epoch in range(np.count_nonzero(own) // entry.samples):
            samples = places.sample[own & (places.epoch == epoch)]
            assert np.array_equal(np.sort(samples), np.arange(entry.samples))


def test_epochs_and_seeds_and_sources_have_orders_of_their_own() -> None:
    order = GlobalOrder(IDS, ONE_STAGE, seed=1, window=0)
    places = locate(order, 2000)
    epochs = [places.sample[(places.source == 0) & (places.epoch == epoch)].tolist() for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    other = locate(GlobalOrder(IDS, ONE_STAGE, seed=2, window=0), 2000)
    assert not np.array_equal(places.sample, other.sample)
    assert np.array_equal(places.source, other.source)
    same = [StagePlan(0, 10, (source(0, 0.5, 100), source(1, 0.5, 100)))]
    twins = locate(GlobalOrder(IDS, same, seed=1, window=0), 200)
    assert twins.sample[twins.source == 0].tolist() != twins.sample[twins.source == 1].tolist()


def test_the_order_does_not_depend_on_how_it_is_asked_for() -> None:
    order = GlobalOrder(IDS, STAGES, seed=3, window=0)
    whole = locate(order, 600)
    random = np.random.default_rng(0).permutation(600)
    pieces = order.locate(random)
    for name in ("stage", "source", "epoch", "sample"):
        assert np.array_equal(getattr(pieces, name), getattr(whole, name)[random])


def test_stages_begin_with_the_first_sample_at_or_after_their_tokens() -> None:
    order = GlobalOrder(IDS, STAGES, seed=3, window=0)
    assert [stage.first for stage in order.stages] == [0, 124, 400]
    assert order.stage_of(np.array([0, 123, 124, 399, 400, 10**6])).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_stage_that_would_end_inside_the_sample_before_it_is_refused() -> None:
    longer, shorter, next_one = (0, 4096), (1, 16), (2, 16)
    plans = [StagePlan(start, length, (source(0, 1.0, 100),)) for start, length in (longer, shorter, next_one)]
    said = r"^data\.stages\[1\]\.from_tokens: must be larger than 4096, the first token at which a sample of "
    with pytest.raises(InputError, match=said + r"data\.stages\[0\] can begin, is 2$"):
        GlobalOrder(IDS, plans, seed=3, window=0)
    plans[2] = replace(plans[2], from_tokens=4097)
    assert [stage.first for stage in GlobalOrder(IDS, plans, seed=3, window=0).stages] == [0, 1, 2]


def test_a_source_goes_on_where_the_stage_before_left_it() -> None:
    places = locate(GlobalOrder(IDS, STAGES, seed=3, window=0), 400)
    own = np.flatnonzero(places.source == 1)
    assert own.min() < 124 < own.max()
    assert np.array_equal(places.epoch[own], np.arange(own.size) // 37)
    seen = Counter(zip(places.epoch[own].tolist(), places.sample[own].tolist(), strict=True))
    assert set(seen.values()) == {1}


def test_another_sequence_length_begins_a_new_epoch() -> None:
    places = locate(GlobalOrder(IDS, STAGES, seed=3, window=0), 600)
    before = places.epoch[(places.source == 1) & (places.stage == 1)].max()
    after = (places.source == 1) & (places.stage == 2)
    assert places.epoch[after].min() == before + 1
    assert np.array_equal(np.sort(places.sample[np.flatnonzero(after)[:18]]), np.arange(18))


@pytest.mark.parametrize("window", [0, 40])
def test_occurrences_are_the_inverse(window: int) -> None:
    order = GlobalOrder(IDS, STAGES, seed=5, window=window)
    places = locate(order, 900)
    for stage, number, sample in ((0, 0, 3), (0, 1, 36), (1, 1, 0), (1, 2, 77), (2, 1, 17), (2, 2, 700)):
        expected = np.flatnonzero((places.stage == stage) & (places.source == number) & (places.sample == sample))
        found = list(order.occurrences(stage, number, sample, limit=900))
        assert [one.number for one in found] == expected.tolist()
        assert [one.epoch for one in found] == places.epoch[expected].tolist()


def test_tokens_served_are_counted_over_stages() -> None:
    order = GlobalOrder(IDS, STAGES, seed=5, window=0)
    places = locate(order, 700)
    lengths = np.array([10, 10, 20])[places.stage]
    for count in (0, 100, 124, 300, 700):
        expected = [int(lengths[:count][places.source[:count] == number].sum()) for number in range(3)]
        assert order.served(count) == expected
