"""Signals go to the training, not to the launcher around it.

In: the signals that ask for a stop, at any moment, also before there is a rank. Out: the same signal to every child.
Always: the launcher outlives its ranks; a rank gets each signal even if it came before the rank was ready for it.

How: the signals are blocked in this process, and children inherit that. A signal that reaches a child too early
stays pending until the child unblocks it (pretrain/resilience/signals.py). A thread here takes the blocked signals one
by one.
"""

import os
import signal
import threading
from pathlib import Path

from pretrain.resilience.signals import STOP_SIGNALS

POLL_SECONDS = 0.2


class SignalRelay:
    """Passes stop signals on to the children of this process, from ``start`` to the end of the process."""

    def __init__(self) -> None:
        self._received: list[signal.Signals] = []
        self._passed_on: set[tuple[int, signal.Signals]] = set()

    def start(self) -> None:
        """Blocks the signals and starts the thread.

        Call it before any child exists, and before numpy or torch are imported: their threads would take the signals.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        threading.Thread(target=self._relay, name="signal relay", daemon=True).start()

    def _relay(self) -> None:
        while True:
            information = signal.sigtimedwait(STOP_SIGNALS, POLL_SECONDS)
            if information is not None:
                self._take(signal.Signals(information.si_signo))
            for child in children(os.getpid()):
                for received in self._received:
                    if (child, received) not in self._passed_on:
                        self._passed_on.add((child, received))
                        _send(child, received)

    def _take(self, received: signal.Signals) -> None:
        if received is signal.SIGINT and received in self._received:  # the user insists
            for child in children(os.getpid()):
                _send(child, signal.SIGKILL)
        if received not in self._received:
            self._received.append(received)


def children(process: int) -> list[int]:
    """The direct children of ``process``."""
    found: list[int] = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += [int(child) for child in listing.read_text().split()]
        except OSError:  # the thread has just ended
            continue
    return found


def _send(process: int, what: signal.Signals) -> None:
    try:
        os.kill(process, what)
    except ProcessLookupError:
        return
