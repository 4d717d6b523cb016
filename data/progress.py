"""Progress of long work: one line that says how far, how fast and how long still.

In: amounts of work done. Out: lines on standard error. Always: a terminal sees one line rewritten, a log file a
new line now and then; short work prints one line at its end. Not tqdm's: its bars count one thing, where this shows the
share of bytes and the rate of tokens, and they fill a log with rewritten lines.
"""

import shutil
import sys
import time


class Progress:
    """Counts work (of ``total``, in bytes or any other measure; 0: not known) and tokens under ``title``; ``quiet`` on
    all ranks but one. ``result`` is what has been found so far, in words, and may be set anew at any time."""

    def __init__(self, title: str, total: int, quiet: bool = False) -> None:
        self.title, self.total, self._quiet = title, total, quiet
        self.result = ""
        self._done = self._tokens = 0
        self._begin = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._interval = 0.5 if self._terminal else 10.0
        self._next = self._begin + self._interval

    def add(self, size: int, tokens: int) -> None:
        """Counts ``size`` more of the work and ``tokens`` more tokens, and prints when it is time to."""
        self._done += size
        self._tokens += tokens
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._next = now + self._interval
            self._print(finished=False)

    def finish(self) -> None:
        """Prints the last line."""
        if not self._quiet:
            self._print(finished=True)

    def clear(self) -> None:
        """Takes the line off a terminal, for what is printed next; a log keeps its lines."""
        if self._terminal and not self._quiet:
            print(" " * _width(), end="\r", file=sys.stderr, flush=True)

    def _print(self, finished: bool) -> None:
        seconds = max(time.monotonic() - self._begin, 1e-9)
        rate = self._tokens / seconds
        speed = f"{rate / 1e6:.2f}M" if rate >= 10_000 else f"{rate:,.0f}"
        text = f"{self.title}: {self._tokens:,} tokens, {speed} tokens/s"
        if finished:
            text += f", took {clock(seconds)}"
        elif self.total:
            share = min(1.0, self._done / self.total)
            text += f", {share:.0%}, {clock(seconds / share - seconds) if share else '?'} left"
        if self.result and not finished:
            text += f"; so far {self.result}"
        end = "\r" if self._terminal and not finished else "\n"
        shown = text[: _width()].ljust(_width()) if self._terminal and not finished else text
        print(shown, end=end, file=sys.stderr, flush=True)


def _width() -> int:
    """Columns of the line that is rewritten: one that fills the terminal would begin another."""
    return shutil.get_terminal_size().columns - 1


def clock(seconds: float) -> str:
    """``seconds`` as H:MM:SS."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
