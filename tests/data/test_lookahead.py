"""Reading ahead: how far follows from what fetches and steps take, and from what the cache holds."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from data.fetch_meter import FetchMeter
from data.lookahead import FIRST_STEPS, Lookahead

SIZE = 1000


@dataclass
class Store:
    """Takes fetches, and says what they take."""

    seconds: float | None = None
    rate: float | None = None
    room: int = 10**6
    began: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """One block of it."""

    store: Store = field(compare=False)
    whole: int
    fetched_bytes: int = SIZE

    @property
    def fetch_seconds(self) -> float | None:
        return self.store.seconds

    @property
    def fetch_rate(self) -> float | None:
        return self.store.rate

    @property
    def room(self) -> int:
        return self.store.room

    def prefetch(self) -> None:
        self.store.began.append(self.whole)


def one_each(store: Store, steps: int = 1000, budget: int = 10**6) -> Lookahead:
    """Every step wants a block of its own."""
    return Lookahead(lambda step: [Block(store, step)], 0, steps, budget)


def settled(ahead: Lookahead) -> int:
    """How far it reaches when nothing changes any more."""
    for _ in range(50):
        ahead.look()
    return ahead.distance


def test_while_nothing_is_measured_a_few_steps_do() -> None:
    store = Store()
    assert settled(one_each(store)) == FIRST_STEPS - 1
    assert store.began == list(range(FIRST_STEPS))


@pytest.mark.parametrize(("step_seconds", "latency"), [(0.5, 0.05), (0.5, 5.0), (0.1, 5.0), (2.0, 0.3)])
def test_the_distance_covers_what_a_fetch_takes_twice(step_seconds: float, latency: float) -> None:
    ahead = one_each(Store(seconds=latency, rate=1e9))
    ahead.stepped(step_seconds)
    assert settled(ahead) == int(2 * latency / step_seconds + 2e-3)


def test_slower_fetches_and_faster_steps_reach_farther() -> None:
    store = Store(seconds=0.5, rate=1e9)
    ahead = one_each(store)
    ahead.stepped(1.0)
    near = settled(ahead)
    store.seconds = 7.0
    far = settled(ahead)
    for _ in range(20):
        ahead.stepped(0.25)
    farther = settled(ahead)
    assert (near, far) == (1, 14)
    assert 54 <= farther <= 56
    assert store.began == list(range(farther + 1))  # in order, each once


def test_many_blocks_wanted_at_once_are_begun_as_early_as_all_of_them_take() -> None:
    """Step 60 wants 40 blocks, 0.5 s each: 20 s, twice over, are 40 steps of a second."""
    store = Store(seconds=0.5, rate=SIZE / 0.5)

    def wanted(step: int) -> Sequence[Block]:
        return [Block(store, step * 100 + number) for number in range({0: 1, 60: 40}.get(step, 0))]

    ahead = Lookahead(wanted, 0, 1000, 10**6)
    ahead.stepped(1.0)
    begins = {}
    for step in range(61):
        ahead.reached(step)
        settled(ahead)
        begins[step] = len(store.began)
    first = min(step for step, count in begins.items() if count > 1)
    assert 60 - first == 2 * (40 + 1) * 0.5  # the last one's own time comes on top
    assert begins[60] == 1 + 40


def test_no_more_is_ahead_than_the_cache_holds() -> None:
    store = Store(seconds=1e4, rate=1e9)
    ahead = one_each(store, budget=7 * SIZE)
    ahead.stepped(0.1)
    for step in range(30):
        ahead.reached(step)
        assert settled(ahead) == 6
    assert store.began == list(range(36))


def test_what_several_steps_want_counts_once_and_until_the_last_has_read_it() -> None:
    store = Store(seconds=1e4, rate=1e9)
    ahead = Lookahead(lambda step: [Block(store, step // 5)], 0, 1000, 3 * SIZE)
    ahead.stepped(0.1)
    ahead.look()
    assert store.began == [0, 1, 2]
    ahead.reached(4)
    settled(ahead)
    assert store.began == [0, 1, 2]
    ahead.reached(5)
    settled(ahead)
    assert store.began == [0, 1, 2, 3]


def test_only_as_many_begin_as_there_is_room_for_and_none_after_the_last_step() -> None:
    store = Store(seconds=1e4, rate=1e9, room=3)
    ahead = one_each(store, steps=11)
    ahead.stepped(0.1)
    ahead.look()
    assert store.began == [0, 1, 2]
    settled(ahead)
    assert store.began == list(range(11))


def test_one_slow_step_does_not_bring_the_farthest_fetch_near() -> None:
    ahead = one_each(Store(seconds=5.0, rate=1e9))
    for _ in range(10):
        ahead.stepped(1.0)
    ahead.stepped(600.0)  # an evaluation
    assert settled(ahead) >= 8


def test_the_thread_ends_with_the_reader_and_follows_it(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(seconds=0.5, rate=1e6)
    caplog.set_level("INFO")
    with one_each(store, steps=40) as ahead:
        for step in range(40):
            ahead.reached(step)
            ahead.stepped(0.25)
            while not store.began or store.began[-1] < min(39, step + 3):
                time.sleep(0.001)
    assert store.began == list(range(40))
    assert not ahead._thread.is_alive()
    assert "steps ahead: a fetch takes 0.500 s, 1.0 MB/s come, a step takes 0.250 s" in caplog.text


def test_the_meter_counts_busy_time_once_and_forgets_slowly() -> None:
    now = [0.0]
    meter = FetchMeter(clock=lambda: now[0])
    assert meter.seconds is None
    assert meter.rate is None
    with meter.fetching(500):
        now[0] += 1.0
        with meter.fetching(500):
            now[0] += 1.0
    assert meter.seconds == pytest.approx((0.9 * 1.0 + 2.0) / 1.9)
    assert meter.rate == pytest.approx(500, rel=0.15)  # 1000 bytes in two seconds
    now[0] += 1000.0  # nothing is under way
    for _ in range(60):
        with meter.fetching(100):
            now[0] += 0.1
    assert meter.seconds == pytest.approx(0.1, rel=0.02)
    assert meter.rate == pytest.approx(1000, rel=0.02)
    with pytest.raises(OSError, match="away"), meter.fetching(100):
        now[0] += 50.0
        raise OSError("away")
    assert (meter.seconds or 0) > 4
    assert (meter.rate or 0) < 100
