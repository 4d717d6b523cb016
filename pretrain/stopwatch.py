"""Time on the device's own clock: what lies between two points of the work that is handed out to it.

In: starts and stops, in turns. Out: seconds, summed. Always: starting and stopping wait for nothing; asking for the sum
waits for the device.
"""

import time

import torch


class Stopwatch:
    """Adds up the time between each ``start`` and the ``stop`` after it; on a CPU, wall clock."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began = 0.0
        self._cuda = torch.cuda.is_available()
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begins a stretch."""
        self._began = time.perf_counter()
        if self._cuda:
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            self._events.append(pair)

    def stop(self) -> None:
        """Ends it."""
        if self._cuda:
            self._events[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """Seconds of all stretches since the last call; waits for the device."""
        for start, stop in self._events:
            stop.synchronize()
            self._seconds += start.elapsed_time(stop) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._events.clear()
        return seconds
