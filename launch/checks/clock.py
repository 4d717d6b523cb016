"""Clocks that agree: logs, file times and tokens of several nodes only fit together if they do.

In: every node's clock just after a barrier. Out: one Finding; more than `LARGEST_SKEW_SECONDS` is a warning.
"""

import statistics
import time

import torch.distributed as dist

from launch.checks.finding import Finding, Level
from launch.checks.ranks import Ranks

LARGEST_SKEW_SECONDS = 1.0
REPETITIONS = 5


def check_clock(ranks: Ranks) -> Finding:
    """Compares the nodes' clocks with rank 0's; ranks leave a barrier within milliseconds of each other."""
    readings = []
    for _ in range(REPETITIONS):
        if len(ranks.hosts) > 1:
            dist.barrier()
        readings.append(time.time())
    return judge_clocks(ranks.ask_nodes(readings))


def judge_clocks(readings: dict[str, list[float]]) -> Finding:
    """``readings``: times read on every node at the same moments, the reference node first."""
    reference = next(iter(readings.values()))
    skews = {
        node: statistics.median(time - first for time, first in zip(times, reference, strict=True))
        for node, times in readings.items()
    }
    wrong = [f"{node} by {skew:+.1f} s" for node, skew in skews.items() if abs(skew) > LARGEST_SKEW_SECONDS]
    if wrong:
        return Finding("clocks", f"off {next(iter(readings))}'s: {', '.join(wrong)}; is NTP running?", Level.WARNING)
    return Finding("clocks", f"within {1000 * max(abs(skew) for skew in skews.values()):.0f} ms")
