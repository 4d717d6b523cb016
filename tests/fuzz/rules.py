"""What every fuzzer has in common: how much it does, and what counts as a right answer.

In: a call on hostile input. Out: its value, or the one line that refuses it. Always: any other exception, a hang, or a
message that fills pages fails the test.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from common.errors import InputError

Value = TypeVar("Value")

LONG = os.environ.get("FUZZ") == "long"
"""set by `make test-fuzz`"""
LONGEST_MESSAGE = 1500
HANG_SECONDS = 20.0


def fuzz(quick: int, long: int) -> Callable[[Any], Any]:
    """``quick`` inputs, always the same ones, in `make test`; ``long`` new ones in `make test-fuzz`.

    Choose ``quick`` so that the test takes some ten seconds: all fuzzers together have two minutes.
    """
    return settings(
        max_examples=long if LONG else quick,
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def answer(call: Callable[[], Value], seconds: float = HANG_SECONDS) -> tuple[Value | None, str | None]:
    """(value, None), or (None, the line that refuses the input); what else ``call`` raises goes through."""
    with within(seconds):
        try:
            return call(), None
        except InputError as error:
            line = " ".join(str(error).split())
            assert line, "an empty message"
            assert len(line) <= LONGEST_MESSAGE, f"a message of {len(line)} characters: {line[:300]}"
            return None, line


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Ends what hangs with an AssertionError; main thread only."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"no answer after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
