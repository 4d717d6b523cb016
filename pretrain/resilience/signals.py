"""A request to stop, made to one process by a signal and agreed on by all ranks at the same step.

In: SIGUSR1 (the time limit is near), SIGTERM (preemption, or the launcher ends) or SIGINT (Ctrl-C), on any rank, at any
moment: in a step, in a save, while the program still loads. Out: `received`, which the supervisor
(pretrain/resilience/supervisor.py) compares over all ranks after every step, so that all stop at the same one.
Always: a handler only takes a note, so nothing is torn in the middle; a second Ctrl-C interrupts at once.
"""

import ctypes
import os
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


class StopSignal:
    """This process's note of a signal; one that was never installed is never asked to stop."""

    def __init__(self) -> None:
        self._received = 0

    def install(self) -> "StopSignal":
        """Takes the stop signals from now on, and those that the launcher has held back until now."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        return self

    @property
    def received(self) -> int:
        """The number of the strongest stop signal that this process has got, or 0."""
        return self._received

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = max(self._received, number)


def die_with_launcher() -> None:
    """Under torchrun: the kernel kills this process when the launcher dies; a killed launcher leaves no rank behind."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def describe_signal(received: signal.Signals) -> str:
    """What a stop signal means, in words."""
    meaning = {
        signal.SIGUSR1: "the time limit is near",
        signal.SIGTERM: "preempted or ended from outside",
        signal.SIGINT: "interrupted by the user",
    }
    return f"{received.name}: {meaning.get(received, 'asked to stop')}"
