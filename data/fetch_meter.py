"""How long fetches from a store take, each by itself and all together.

In: the begin and end of each fetch. Out: seconds of a fetch, bytes per second. Always: recent fetches count most;
time in which nothing was under way counts for nothing; a failed fetch takes time and brings no bytes.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

MEMORY = 0.9
"""what a fetch weighs against the one after it"""


class FetchMeter:
    """Shared by the threads that fetch from one store."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._count = self._seconds = self._bytes = self._busy = self._since = 0.0
        self._under_way = 0

    @property
    def seconds(self) -> float | None:
        """Of a fetch, tries again included; None: there was none."""
        with self._lock:
            return self._seconds / self._count if self._count else None

    @property
    def rate(self) -> float | None:
        """Bytes per second while something is under way; None: nothing has come."""
        with self._lock:
            return self._bytes / self._busy if self._bytes and self._busy else None

    @contextlib.contextmanager
    def fetching(self, size: int) -> Iterator[None]:
        """Around a fetch of ``size`` bytes."""
        began = self._turn(+1)
        came = 0
        try:
            yield
            came = size
        finally:
            self._turn(-1, began, came)

    def _turn(self, change: int, began: float | None = None, came: int = 0) -> float:
        with self._lock:
            now = self._clock()
            if began is not None:
                self._count, self._seconds = MEMORY * self._count + 1, MEMORY * self._seconds + now - began
                self._bytes, self._busy = MEMORY * self._bytes + came, MEMORY * self._busy
            if self._under_way:
                self._busy += now - self._since
            self._under_way += change
            self._since = now
            return now
