"""What passes wait for is what a clock says that ticks through the engine's rule; closed forms where there are some."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from pretrain.plan.overlap import BackwardEnd, Hop, PlannedBucket, backlog_of, backward_end, forward_end


def bucket(*layers: int, weights: float = 0, gradients: float = 0, late: float = 0) -> PlannedBucket:
    return PlannedBucket(layers, (Hop("wire", weights, late),), (Hop("wire", gradients, late),))


def one_for_each(layers: int, seconds: float) -> list[PlannedBucket]:
    return [bucket(number, weights=seconds, gradients=seconds) for number in range(layers)]


@pytest.mark.parametrize("seconds", [1, 5, 7, 11])
def test_of_equal_layers_what_is_slower_counts_and_one_bucket(seconds: float) -> None:
    layers, own = 13, 7
    longer = max(0, seconds - own)
    assert forward_end([own] * layers, one_for_each(layers, seconds), True) == pytest.approx(
        layers * own + seconds + (layers - 1) * longer
    )
    end = backward_end([own] * layers, one_for_each(layers, seconds), True)
    assert end == BackwardEnd(layers * own, layers * own + seconds + (layers - 1) * longer)


def test_without_overlap_everything_is_waited_for() -> None:
    buckets = one_for_each(5, 3)
    assert forward_end([7] * 5, buckets, overlap=False) == 5 * (7 + 3)
    assert backward_end([7] * 5, buckets, overlap=False) == BackwardEnd(35, 50)
    late = [bucket(number, weights=3, gradients=3, late=2) for number in range(5)]
    assert forward_end([7] * 5, late, overlap=False) == 5 * (7 + 3) + 2
    assert backward_end([7] * 5, late, overlap=False).arrived == 5 * (7 + 3 + 2)


def test_a_tied_weight_is_needed_first_and_ready_last() -> None:
    table = bucket(0, 4, weights=100, gradients=100)
    others = [bucket(number, weights=1, gradients=1) for number in (1, 2, 3)]
    assert forward_end([0, 7, 7, 7, 5], [table, *others], True) == 100 + 1 + 26
    assert backward_end([0, 7, 7, 7, 5], [table, *others], True) == BackwardEnd(26, 127)
    untied = [bucket(0, weights=50), *others, bucket(4, weights=50)]
    assert forward_end([0, 7, 7, 7, 5], untied, True) == max(50 + 1 + 21, 103) + 5


def test_links_of_their_own_go_on_beside_each_other() -> None:
    partitions = [PlannedBucket((number,), (), (Hop("node", 2),), (Hop("network", 6),)) for number in range(4)]
    # Complete at 7, 14, 21, 28; what goes between nodes leaves with the next one, at 14, 21, 28, and the last at 34.
    assert backward_end([7] * 4, partitions, True) == BackwardEnd(28, 40)
    # On streams it leaves at 9, 17, 25 and 33, each behind the one before it: 15, 23, 31, 39.
    assert backward_end([7] * 4, partitions, True, streams=True) == BackwardEnd(28, 39)


def test_a_path_that_ends_late_holds_up_no_other() -> None:
    tied = PlannedBucket((3,), (), (Hop("node", 1),), (Hop("other stage", 500),), ("tied",))
    others = [PlannedBucket((number,), (), (Hop("node", 2),), (Hop("network", 3),), ("alike",)) for number in range(3)]
    end = backward_end([7] * 4, [*others, tied], True, streams=True)
    assert end == BackwardEnd(28, 7 + 1 + 500)
    same = [replace(one, path=("tied",)) for one in others]
    assert backward_end([7] * 4, [*same, tied], True, streams=True).arrived == 508 + 3 * 5


def test_a_stage_begins_when_the_one_before_is_done_and_the_link_has_not_waited() -> None:
    buckets = [bucket(0, weights=9), bucket(1, weights=9)]
    assert forward_end([5, 5], buckets, True) == 9 + 9 + 5
    assert forward_end([5, 5], buckets, True, start=20) == 30


def test_the_first_weights_return_while_the_last_are_updated() -> None:
    """Three buckets, each updated in 4 s and returned in 7; the update ends at 0."""
    buckets = [PlannedBucket((layer,), (Hop("wire", 7),), ()) for layer in range(3)]
    arrivals = (-8 + 7, -8 + 14, -8 + 21)
    assert forward_end([2, 2, 2], buckets, True, update=12) == pytest.approx(arrivals[2] + 2)
    assert forward_end([9, 9, 9], buckets, True, update=12) == pytest.approx(27)
    assert forward_end([2, 2, 2], buckets, False, update=12) == pytest.approx(21 + 6)
    assert backward_end([5, 5], [bucket(0, gradients=3), bucket(1, gradients=3)], True, start=20) == BackwardEnd(30, 33)


@pytest.mark.parametrize("seconds", [2, 6, 13])
@pytest.mark.parametrize("passes", [0, 1, 2, 5])
def test_a_link_that_is_too_slow_falls_behind_with_every_pass(passes: int, seconds: float) -> None:
    forward, backward = [3, 3, 3], [7, 7, 7]
    buckets = one_for_each(3, seconds)
    long = []
    for number in range(passes):  # the same as one long pass with idle layers for the forward passes between
        long += [(number, None)] if number else []
        long += [(number, layer) for layer in (2, 1, 0)]
    free = time = 0.0
    for _, layer in long:
        time += 9 if layer is None else 7
        if layer is not None:
            free = max(free, time) + seconds
    expected = max(0.0, free - time - 9) if passes else 0.0
    assert backlog_of(forward, backward, buckets, passes).get("wire", 0.0) == pytest.approx(expected)


def ticking(layers: list[int], buckets: list[PlannedBucket], streams: bool, backlog: dict[str, int]) -> tuple[int, int]:
    """The rule again, second by second: every link has a queue of what was asked for, and serves its first."""
    finished_at = {number: sum(layers[number:]) for number in range(len(layers))}
    total = sum(layers)
    queues: dict[str, list[list[int]]] = {link: [[left, -1]] for link, left in backlog.items() if left}
    waiting: dict[int, list[Hop]] = {}
    orders: dict[tuple[str, ...], list[int]] = {}  # by path on streams, else all buckets are one
    on_its_way: Counter[int] = Counter()
    coming: list[tuple[int, int]] = []
    now = 0
    while True:
        for arrival in [one for one in coming if one[0] <= now]:
            coming.remove(arrival)
            on_its_way[arrival[1]] -= 1
        complete = [
            index
            for number in reversed(range(len(layers)))
            for index in reversed(range(len(buckets)))
            if buckets[index].layers[0] == number and finished_at[number] == now and index not in waiting
        ]
        for index in complete:
            waiting[index] = [*buckets[index].gradients, *buckets[index].further]
            orders.setdefault(buckets[index].path if streams else (), []).append(index)
            if not streams:
                _ask(index, waiting, queues, on_its_way)
                _oldest_go_on(orders[()], waiting, queues, on_its_way)
        if streams or now >= total:
            for order in orders.values():
                _oldest_go_on(order, waiting, queues, on_its_way)
            if now >= total and not any(orders.values()):
                return total, now
        now += 1
        for queue in queues.values():
            if queue:
                queue[0][0] -= 1
                if queue[0][0] == 0:
                    _, index, *late = queue.pop(0)
                    if index >= 0:
                        coming.append((now + late[0], index))


def _ask(
    index: int, waiting: dict[int, list[Hop]], queues: dict[str, list[list[int]]], on_its_way: Counter[int]
) -> None:
    if waiting[index]:
        hop = waiting[index].pop(0)
        queues.setdefault(hop.link, []).append([int(hop.seconds), index, int(hop.late)])
        on_its_way[index] += 1


def _oldest_go_on(
    order: list[int], waiting: dict[int, list[Hop]], queues: dict[str, list[list[int]]], on_its_way: Counter[int]
) -> None:
    while order and not on_its_way[order[0]]:
        if not waiting[order[0]]:
            order.pop(0)
            continue
        _ask(order[0], waiting, queues, on_its_way)


@pytest.mark.parametrize("seed", range(200))
def test_any_backward_pass_is_what_a_clock_says(seed: int) -> None:
    draw = random.Random(seed)
    layers = [draw.randint(1, 13) for _ in range(draw.randint(1, 9))]
    firsts = sorted(draw.randrange(len(layers)) for _ in range(draw.randint(1, 11)))

    def hop() -> Hop:
        return Hop(draw.choice(["node", "network"]), draw.randint(1, 17), draw.choice([0, 0, 5]))

    buckets = [
        PlannedBucket((first,), (), (hop(),), tuple(hop() for _ in range(draw.randint(0, 2))), (draw.choice("abc"),))
        for first in firsts
    ]
    backlog = {link: draw.choice([0, 0, 11]) for link in ("node", "network")}
    streams = draw.random() < 0.5
    end = backward_end(layers, buckets, True, 0, dict(backlog), streams)
    assert (end.computed, end.arrived) == ticking(layers, buckets, streams, backlog)


@pytest.mark.parametrize("seed", range(100))
def test_any_forward_pass_is_what_a_clock_says(seed: int) -> None:
    draw = random.Random(seed)
    layers = [draw.randint(0, 13) for _ in range(draw.randint(1, 9))]
    count = draw.randint(1, 11)
    buckets = [
        PlannedBucket(
            tuple(sorted(draw.sample(range(len(layers)), draw.randint(1, min(3, len(layers)))))),
            (Hop("wire", draw.randint(1, 17)),),
            (),
        )
        for _ in range(count)
    ]
    now, served, left = 0, 0, int(buckets[0].weights[0].seconds)
    number, spent = 0, 0
    while number < len(layers):  # one second: the link serves, the layer runs whose buckets have come
        missing = any(number in one.layers for one in buckets[served:])
        if not missing and spent == layers[number]:
            number, spent = number + 1, 0
            continue
        spent += not missing
        now += 1
        left -= 1
        if left == 0:
            served += 1
            left = int(buckets[served].weights[0].seconds) if served < count else -1
    assert forward_end(layers, buckets, True) == now
