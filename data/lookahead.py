"""Reading ahead from a store: what will be read is fetched before, as early as the measured times ask for.

In: what each step wants; how long fetches and steps take. Out: fetches that have begun. Always: what is wanted first
is fetched first; what is wanted between now and the farthest fetch fits into the part of the cache that this process
may fill, so that nothing is dropped before it is read.

A block is due when the time until its step is no longer than fetching it, and all that is wanted before it, takes,
twice over: slower fetches and faster steps reach farther ahead. Until there are measurements, a few steps do.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, Self

FIRST_STEPS = 8
"""how far ahead while nothing is measured"""
SAFETY = 2.0
"""of the time that fetches take"""
MEMORY = 0.8
"""what was known weighs against a step that took longer"""
SCANNED_AT_ONCE = 32
PAUSE = 0.1
"""seconds between two looks at fetches that are under way"""


class Want(Protocol):
    """Bytes of a store that are fetched as one."""

    @property
    def whole(self) -> Hashable:
        """The same for everything that is fetched together."""

    @property
    def fetched_bytes(self) -> int:
        """What is fetched."""

    @property
    def fetch_seconds(self) -> float | None:
        """How long fetches from there take; None: not measured."""

    @property
    def fetch_rate(self) -> float | None:
        """Bytes per second that come from there; None: not measured."""

    @property
    def room(self) -> int:
        """How many fetches from there may begin."""

    def prefetch(self) -> None:
        """Begins to fetch it."""


class Lookahead:
    """Fetches ahead of one reader of steps, in a thread of its own."""

    def __init__(self, wanted: Callable[[int], Sequence[Want]], start: int, stop: int, budget: int) -> None:
        """
        Args:
            wanted: what a step wants, each once.
            budget: bytes that may be fetched and not read yet.
        """
        self._wanted, self._stop, self._budget = wanted, stop, budget
        self._change = threading.Condition()
        self._ended = False
        self._reading = self._next = start
        self._steps: deque[list[Want]] = deque()
        """what the steps from the one that is read to the one that is looked at next want"""
        self._uses: dict[Hashable, int] = {}
        self._held = 0
        self._waiting: deque[tuple[int, Want]] = deque()
        """not begun yet, in the order in which it is wanted"""
        self._farthest = start
        self._step_seconds: float | None = None
        self._known: Want | None = None
        """who can say how fast fetches are"""
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="lookahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()

    @property
    def distance(self) -> int:
        """Steps from the one that is read to the farthest one that something was fetched for."""
        return max(0, self._farthest - self._reading)

    def reached(self, step: int) -> None:
        """The reader is about to read ``step``."""
        with self._change:
            self._reading = step
            self._change.notify()

    def stepped(self, seconds: float) -> None:
        """A step took so long, without waiting for its data."""
        with self._change:
            before = self._step_seconds
            if before is None:
                self._step_seconds = seconds
            elif seconds < before:  # the first steps are slow
                self._step_seconds = (before + seconds) / 2
            else:  # an evaluation or a save lies between two steps now and then
                self._step_seconds = MEMORY * before + (1 - MEMORY) * min(seconds, 2 * before)

    def look(self) -> bool:
        """Looks ahead and begins what is due; whether there is more to be done before the next step."""
        with self._change:
            self._forget_the_past()
            full = self._scan()
            due = self._due()
        for want in due:
            want.prefetch()
        self._tell()
        return not full

    def _run(self) -> None:
        try:
            while True:
                more = self.look()
                with self._change:
                    self._change.wait(PAUSE if more or self._waiting else None)
                    if self._ended:
                        return
        except Exception:  # the reader meets the same failure and tells it
            logging.getLogger(__name__).warning("reads no longer ahead", exc_info=True)

    def _forget_the_past(self) -> None:
        while self._steps and self._next - len(self._steps) < self._reading:
            for want in self._steps.popleft():
                self._uses[want.whole] -= 1
                if not self._uses[want.whole]:
                    del self._uses[want.whole]
                    self._held -= want.fetched_bytes
        self._next = max(self._next, self._reading)
        while self._waiting and self._waiting[0][0] < self._reading:
            self._waiting.popleft()

    def _scan(self) -> bool:
        """Looks at further steps; False: there are more within reach."""
        for _ in range(SCANNED_AT_ONCE):
            if self._next >= self._stop or self._next - self._reading >= self._reach():
                return True
            wants = list(self._wanted(self._next))
            new = [want for want in wants if want.whole not in self._uses]
            size = sum(want.fetched_bytes for want in new)
            if self._uses and self._held + size > self._budget:
                return True
            for want in wants:
                self._uses[want.whole] = self._uses.get(want.whole, 0) + 1
            self._held += size
            self._waiting.extend((self._next, want) for want in new)
            self._steps.append(wants)
            self._known = wants[0] if wants else self._known
            self._next += 1
        return False

    def _reach(self) -> int:
        """Steps from now within which something may be due."""
        speed = self._speed()
        if speed is None:
            return FIRST_STEPS
        latency, per_byte = speed
        return FIRST_STEPS + int(SAFETY * (latency + per_byte * self._budget))

    def _speed(self) -> tuple[float, float] | None:
        """Steps that a fetch takes, and each byte of it where many are under way; None: not measured."""
        known = self._known
        if known is None or self._step_seconds is None or known.fetch_seconds is None or known.fetch_rate is None:
            return None
        step = max(1e-6, self._step_seconds)
        return known.fetch_seconds / step, 1 / known.fetch_rate / step

    def _due(self) -> list[Want]:
        """Takes what must begin now off the queue."""
        count, size, speed = 0, 0, self._speed()
        for place, (step, want) in enumerate(self._waiting, start=1):
            size += want.fetched_bytes
            needed = SAFETY * (speed[0] + speed[1] * size) if speed else FIRST_STEPS - 1
            count = place if step - self._reading <= needed else count
        due: list[Want] = []
        while len(due) < count and self._waiting[0][1].room > len(due):
            step, want = self._waiting.popleft()
            self._farthest = max(self._farthest, step)
            due.append(want)
        return due

    def _tell(self) -> None:
        """Says in the log how far ahead it reads, whenever that has doubled."""
        distance, known = self.distance, self._known
        if known is None or known.fetch_seconds is None or self._step_seconds is None or not distance:
            return
        if distance < 2 * self._told:
            return
        self._told = distance
        logging.getLogger(__name__).info(
            "reads %d steps ahead: a fetch takes %.3f s, %.1f MB/s come, a step takes %.3f s; %.1f of %.1f MB ahead",
            distance,
            known.fetch_seconds,
            (known.fetch_rate or 0.0) / 1e6,
            self._step_seconds,
            self._held / 1e6,
            self._budget / 1e6,
        )
