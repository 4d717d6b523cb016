"""What forward and backward passes wait for, when buckets are exchanged beside them: the engine's rule, played through.

In: seconds of each layer, and of each bucket's exchanges. Out: the seconds that passes take longer. Always: the rule is
that of pretrain/engines/zero; layers are whole: a bucket is complete when the first of its layers has gone backward.

    weights     a bucket is asked for when it is updated, in the order of the forward pass; a layer waits for those that
                it reads, also of a tied weight
    gradients   a bucket leaves when it is complete; its further exchanges (replicas of a partition, tensor-parallel
                copies, the other end of a tied weight) follow one after the other. On a device with streams each begins
                when the one before has arrived, and buckets that take the same path follow one another. Without, the
                host looks when a bucket is complete and when the backward pass is over, always at the oldest
    a link      carries one exchange after the other, in the order in which they were asked for

A link carries what arrives "late" only after a while: the next exchange need not wait for that.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True)
class Hop:
    """One exchange of a bucket."""

    link: str
    seconds: float
    """for which it has the link"""
    late: float = 0.0
    """seconds from then until it has arrived"""


@dataclass(frozen=True)
class PlannedBucket:
    """What is exchanged together."""

    layers: tuple[int, ...]
    """that read its weights, ascending"""
    weights: tuple[Hop, ...]
    gradients: tuple[Hop, ...]
    """within the ranks that share a partition"""
    further: tuple[Hop, ...] = ()
    """of the partition, once per step"""
    path: tuple[str, ...] = ()
    """what follows, by name"""


class Links:
    """When each link is free."""

    def __init__(self, backlog: dict[str, float] | None = None) -> None:
        self._free = dict(backlog or {})

    def carry(self, hop: Hop, asked: float) -> float:
        """When ``hop``, asked for at ``asked``, has arrived."""
        end = max(asked, self._free.get(hop.link, asked)) + hop.seconds
        self._free[hop.link] = end
        return end + hop.late

    def free(self, link: str) -> float:
        """When ``link`` has carried everything."""
        return self._free.get(link, 0.0)


def forward_end(
    layers: Sequence[float],
    buckets: Sequence[PlannedBucket],
    overlap: bool,
    start: float = 0.0,
    update: float = 0.0,
) -> float:
    """When the first forward pass of a step ends that may begin at ``start``; the update ends at 0.

    Args:
        layers: seconds of each layer.
        buckets: in the order of the forward pass.
        update: seconds for all buckets, alike for each.
    """
    links = Links()
    arrivals: dict[int, float] = {}
    for number, bucket in enumerate(buckets, start=1):
        asked = update * (number / len(buckets) - 1) if overlap else 0.0
        here = max((links.carry(hop, asked) for hop in bucket.weights), default=0.0)
        for layer in bucket.layers:
            arrivals[layer] = max(here, arrivals.get(layer, 0.0))
    time = start if overlap else max([start, *arrivals.values()])
    for number, seconds in enumerate(layers):
        time = max(time, arrivals.get(number, 0.0)) + seconds
    return time


@dataclass(frozen=True)
class BackwardEnd:
    """When the last backward pass of a step is over."""

    computed: float
    """the stage before can go on"""
    arrived: float
    """all gradients are there"""


def backward_end(
    layers: Sequence[float],
    buckets: Sequence[PlannedBucket],
    overlap: bool,
    start: float = 0.0,
    backlog: dict[str, float] | None = None,
    streams: bool = False,
) -> BackwardEnd:
    """The last backward pass of a step, which begins at ``start``.

    Args:
        layers: seconds of each layer, in the order of the forward pass.
        backlog: when links have carried what was asked for before.
        streams: of the device, on which what follows an arrival waits for nobody.
    """
    if not overlap:  # bucket after bucket, when the pass is over
        computed = start + sum(layers)
        every = (hop for bucket in buckets for hop in (*bucket.gradients, *bucket.further))
        return BackwardEnd(computed, computed + sum(hop.seconds + hop.late for hop in every))
    if streams:
        return _on_streams(layers, buckets, start, Links(backlog))
    links = Links(backlog)
    under_way: deque[tuple[Iterator[Hop], float]] = deque()

    def go_on(time: float) -> float:
        """The oldest bucket's exchange has arrived: its next one."""
        following, arrival = under_way.popleft()
        time = max(time, arrival)
        hop = next(following, None)
        if hop is not None:
            under_way.appendleft((following, links.carry(hop, time)))
        return time

    time = start
    for bucket, seconds in _completions(layers, buckets):
        time += seconds
        if bucket is None:
            continue
        hops = iter((*bucket.gradients, *bucket.further))
        first = next(hops, None)
        if first is not None:
            under_way.append((hops, links.carry(first, time)))
        while under_way and under_way[0][1] <= time:
            time = go_on(time)
    computed = time
    while under_way:
        time = go_on(time)
    return BackwardEnd(computed, time)


def _on_streams(layers: Sequence[float], buckets: Sequence[PlannedBucket], start: float, links: Links) -> BackwardEnd:
    """Exchanges in the order in which they are asked for."""
    waiting: dict[tuple[str, ...], deque[tuple[float, Iterator[Hop]]]] = {}
    time = start
    for bucket, seconds in _completions(layers, buckets):
        time += seconds
        if bucket is not None:
            hops = iter((*bucket.gradients, *bucket.further))
            waiting.setdefault(bucket.path, deque()).append((time, hops))
    arrived = time
    asked = [(chains[0][0], number, path) for number, (path, chains) in enumerate(waiting.items())]
    heapify(asked)
    while asked:
        when, number, path = heappop(asked)
        hop = next(waiting[path][0][1], None)
        if hop is not None:
            heappush(asked, (links.carry(hop, when), number, path))
            continue
        arrived = max(arrived, when)
        waiting[path].popleft()
        if waiting[path]:
            heappush(asked, (max(when, waiting[path][0][0]), number, path))
    return BackwardEnd(time, arrived)


def _completions(
    layers: Sequence[float], buckets: Sequence[PlannedBucket]
) -> Iterator[tuple[PlannedBucket | None, float]]:
    """Buckets as they are complete, each with the seconds since the one before; at last, None and what remains."""
    since = 0.0
    for number in reversed(range(len(layers))):
        since += layers[number]
        for bucket in reversed(buckets):
            if bucket.layers[0] == number:
                yield bucket, since
                since = 0.0
    yield None, since


def backlog_of(
    forward: Sequence[float], backward: Sequence[float], buckets: Sequence[PlannedBucket], passes: int
) -> dict[str, float]:
    """What links still carry of ``passes`` micro-batches' gradients when the next backward pass begins, at 0.

    A link that is busy all the time is behind by the same amount more with every pass; one that is not has caught up.
    """
    between = sum(forward)
    backlog: dict[str, float] = {}
    for link in {hop.link for bucket in buckets for hop in bucket.gradients}:
        links, time, carried = Links(), 0.0, 0.0
        for bucket, seconds in _completions(backward, buckets):
            time += seconds
            for hop in bucket.gradients if bucket is not None else ():
                if hop.link == link:
                    links.carry(hop, time)
                    carried += hop.seconds
        behind = links.free(link) - time - between
        growth = carried - time - between
        if passes:
            backlog[link] = max(behind + (passes - 1) * max(0.0, growth), 0.0)
    return backlog
