"""Ends a run that no longer moves, with the evidence on disk.

In: a beat per step from the trainer. Out: after ``seconds`` without one, on every rank that can still act:
`rank_R.stacks` (the stacks of all threads) and `rank_R.hang.json` (pretrain/resilience/hang.py) in the attempt's
folder, then exit status 76, which the launcher answers with a requeue.
Always: works while the main thread is stuck in a collective call; where even the interpreter is stuck, a second timer
inside faulthandler, which needs no interpreter, writes the stacks and ends the process.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from common.files import open_itself, write_json
from pretrain.records import forgiving
from pretrain.resilience.attempts import HUNG_STATUS
from pretrain.resilience.hang import hang_report

LAST_WORDS_SECONDS = 3.0
"""between a rank's report and its end: the other ranks' reports must not be cut off when the first rank ends"""
BACKSTOP_SECONDS = 30.0
"""how much later than the watchdog's own thread faulthandler acts"""


class Watchdog:
    """One per rank; ``beat`` winds it up, ``stop`` ends it."""

    def __init__(
        self, folder: Path, rank: int, seconds: float, end: Callable[[int], None] = os._exit, step: int = 0
    ) -> None:
        """Starts watching at once; ``seconds`` of 0 never ends anything.

        Args:
            folder: the attempt's folder.
            end: what is called with the exit status at last; tests put something gentler here.
            step: the step that the run goes on from.
        """
        self._folder = folder
        self._rank = rank
        self._seconds = seconds
        self._end = end
        self._step = step
        self._last = time.monotonic()
        self._stopped = threading.Event()
        if seconds > 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._stacks = open_itself(folder / f"rank_{rank:05d}.stacks", "w")
            self._arm_backstop()
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, step: int) -> None:
        """The run moves: ``step`` steps are done."""
        self._step = step
        self._last = time.monotonic()
        if self._seconds > 0:
            self._arm_backstop()

    def stop(self) -> None:
        """The run is over; an empty stack file is removed."""
        if self._seconds > 0 and not self._stopped.is_set():
            self._stopped.set()
            faulthandler.cancel_dump_traceback_later()
            empty = self._stacks.tell() == 0
            self._stacks.close()
            if empty:
                Path(self._stacks.name).unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                self._give_up()
                return

    def _give_up(self) -> None:
        silence = time.monotonic() - self._last
        print(
            f"rank {self._rank}: no progress for {silence:.0f} s after step {self._step}; ending the run, "
            f"stacks are in {self._stacks.name}",
            flush=True,
        )
        with forgiving("the stacks are not all there"):
            faulthandler.dump_traceback(self._stacks, all_threads=True)
            self._stacks.flush()
        with forgiving("this rank leaves no report"):
            report = hang_report(self._rank, self._step, silence)
            write_json(self._folder / f"rank_{self._rank:05d}.hang.json", report)
        time.sleep(min(LAST_WORDS_SECONDS, self._seconds))
        self._end(HUNG_STATUS)

    def _arm_backstop(self) -> None:
        faulthandler.dump_traceback_later(self._seconds + BACKSTOP_SECONDS, exit=True, file=self._stacks)
