"""Where the time of profiled steps went: operations, and the groups they belong to.

In: what torch.profiler recorded of steps that ran under STEP. Out: an Account. Always: an operation's time is its own,
without what it calls; on a GPU it is the time of the kernels that it launched. Waiting is what is left of the wall
clock: nothing ran on the device, or on a CPU no operation ran in the thread of the steps. So all shares add up to 1
where a GPU runs one kernel at a time.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

STEP = "profiled step"
"""name of the range that every step is recorded under"""
WAITING = "waiting"
REST = "the rest"
GROUPS = (
    ("optimizer", re.compile(r"optimizer\.|adam|muon", re.IGNORECASE)),
    ("communication", re.compile(r"c10d|nccl|gloo|all_?reduce|all_?gather|reduce_?scatter", re.IGNORECASE)),
    ("attention", re.compile(r"attention|_attend|scaled_?dot_?product|flash|fmha|difference", re.IGNORECASE)),
    ("norms", re.compile(r"(?i:rms_?norm|layer_?norm)|_(Add)?Norm")),
    ("products", re.compile(r"(?:::|_)(add|badd)?b?mm_?\b|gemm")),
    ("loss", re.compile(r"loss|cross_?entropy|log_?softmax", re.IGNORECASE)),
)
"""an operation belongs to the first group that its name, or the name of one that calls it, matches"""


@dataclass(frozen=True)
class Operation:
    """One operation's part of all steps."""

    name: str
    group: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class Account:
    """The time of ``steps`` steps."""

    steps: int
    seconds: float
    """wall clock of all of them"""
    operations: tuple[Operation, ...]
    """the costliest first"""
    waiting: float
    """seconds"""

    def shares(self) -> dict[str, float]:
        """Part of the wall clock of every group."""
        found = {name: 0.0 for name, _ in GROUPS} | {REST: 0.0}
        for operation in self.operations:
            found[operation.group] += operation.seconds / self.seconds
        return found | {WAITING: self.waiting / self.seconds}


def account(events: Iterable[Any], on_gpu: bool) -> Account:
    """The account of a profile's ``events()``."""
    events = list(events)
    steps = [event for event in events if event.name == STEP and event.device_type.name == "CPU"]
    thread, seconds = steps[0].thread, sum(event.time_range.elapsed_us() for event in steps) / 1e6
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.device_type.name != "CPU" or event.name == STEP or (not on_gpu and event.thread != thread):
            continue
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if own > 0:
            spent[event.name, group_of(_callers(event))].append(own / 1e6)
    operations = [Operation(name, group, len(times), sum(times)) for (name, group), times in spent.items()]
    operations.sort(key=lambda operation: -operation.seconds)
    busy = _covered(_kernels(events)) if on_gpu else sum(operation.seconds for operation in operations)
    return Account(len(steps), seconds, tuple(operations), max(0.0, seconds - busy))


def group_of(names: Iterable[str]) -> str:
    """Of an operation, from its name and those of all that call it."""
    names = list(names)
    for group, pattern in GROUPS:
        if any(pattern.search(name) for name in (names[:1] if group == "products" else names)):
            return group
    return REST


def table(found: Account, most: int) -> list[str]:
    """The ``most`` costliest operations, then the groups."""
    lines = [f"{'ms per step':>12}{'share':>8}{'calls':>8}  {'group':<15}operation"]
    lines += [
        f"{1000 * one.seconds / found.steps:>12.2f}{one.seconds / found.seconds:>8.1%}"
        f"{one.calls / found.steps:>8.0f}  {one.group:<15}{one.name}"
        for one in found.operations[:most]
    ]
    lines += ["", f"{'share':>8}  of {1000 * found.seconds / found.steps:.1f} ms per step"]
    return lines + [f"{share:>8.1%}  {group}" for group, share in found.shares().items()]


def _callers(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _kernels(events: Iterable[Any]) -> Iterator[tuple[float, float]]:
    """(begin, end) in seconds of all that ran on the GPU."""
    for event in events:
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False):
            yield event.time_range.start / 1e6, event.time_range.end / 1e6


def _covered(ranges: Iterable[tuple[float, float]]) -> float:
    """Length of what at least one of the ranges covers."""
    covered, end = 0.0, float("-inf")
    for first, last in sorted(ranges):
        covered += max(0.0, last - max(first, end))
        end = max(end, last)
    return covered
