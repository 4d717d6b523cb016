"""Seconds of functions that take turns.

In: functions by name, and the device that they run on. Out: the median of each. Always: all of them run in every round,
so that a noisy machine disturbs all alike; the device is waited for before and after each.
"""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARMUP = 3
"""rounds that are not measured: kernels are chosen, compiled and loaded"""


def median_seconds(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Of each contender."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(WARMUP + rounds):
        for name, run in contenders.items():
            wait(device)
            begin = time.perf_counter()
            run()
            wait(device)
            if number >= WARMUP:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
