"""What a start is busy with, said now and then until the first step is taken.

In: one word from each part of the start as it begins. Out: a line whenever `SECONDS` have passed. Always: a start that
takes less says nothing; imports nothing that is slow, so that it can watch the imports as well.
"""

import threading
import time
from types import TracebackType

SECONDS = 15.0


class StartUp:
    """Speaks between ``with`` and the first call of ``over``, if it is not ``quiet``, as on all ranks but one."""

    def __init__(self, quiet: bool = False, seconds: float = SECONDS) -> None:
        self._quiet, self._seconds = quiet, seconds
        self._began = time.monotonic()
        self._doing = ("loading libraries", self._began)
        self._over = threading.Event()
        self._has_spoken = False

    def __enter__(self) -> "StartUp":
        if not self._quiet:
            threading.Thread(target=self._speak, name="start-up", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def doing(self, what: str) -> None:
        """From here on, as in "building the model"."""
        self._doing = (what, time.monotonic())

    def over(self) -> None:
        """The first step has been taken; says so where the start was slow. Again: nothing."""
        if self._has_spoken and not self._over.is_set():
            print(f"starting: done, {time.monotonic() - self._began:.0f} s after the start", flush=True)
        self._over.set()

    def _speak(self) -> None:
        while not self._over.wait(self._seconds):
            what, since = self._doing
            self._has_spoken = True
            print(f"starting: {what}, for {time.monotonic() - since:.0f} s so far", flush=True)
