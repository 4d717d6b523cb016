"""Progress of long work: one line that says how far, how fast and how long still.

In: amounts of work done. Out: lines on standard error. Always: a terminal sees one line rewritten, a log file a
new line now and then; short work prints one line at its end. Not tqdm's: its bars count one thing, where this shows the
share of bytes and the rate of tokens, and they fill a log with rewritten lines.
"""

import sys
import time

WIDTH = 100
"""columns of the line that is rewritten"""


class Progress:
    """Counts bytes (of ``total_bytes``; 0: not known) and tokens under ``title``; ``quiet`` on all ranks but one."""

    def __init__(self, title: str, total_bytes: int, quiet: bool = False) -> None:
        self.title, self._total, self._quiet = title, total_bytes, quiet
        self._bytes = self._tokens = 0
        self._begin = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._interval = 0.5 if self._terminal else 10.0
        self._next = self._begin + self._interval

    def add(self, size: int, tokens: int) -> None:
        """Counts ``size`` more bytes and ``tokens`` more tokens, and prints when it is time to."""
        self._bytes += size
        self._tokens += tokens
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._next = now + self._interval
            self._print(finished=False)

    def finish(self) -> None:
        """Prints the last line."""
        self._print(finished=True)

    def clear(self) -> None:
        """Takes the line off a terminal, for what is printed next; a log keeps its lines."""
        if self._terminal:
            print(" " * WIDTH, end="\r", file=sys.stderr, flush=True)

    def _print(self, finished: bool) -> None:
        seconds = max(time.monotonic() - self._begin, 1e-9)
        rate = self._tokens / seconds
        speed = f"{rate / 1e6:.2f}M" if rate >= 10_000 else f"{rate:,.0f}"
        text = f"{self.title}: {self._tokens:,} tokens, {speed} tokens/s"
        if finished:
            text += f", took {clock(seconds)}"
        elif self._total:
            share = min(1.0, self._bytes / self._total)
            text += f", {share:.0%}, {clock(seconds / share - seconds) if share else '?'} left"
        end = "\r" if self._terminal and not finished else "\n"
        print(text.ljust(WIDTH) if self._terminal else text, end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """``seconds`` as H:MM:SS."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
