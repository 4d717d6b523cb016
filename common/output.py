"""What is printed never ends the work that prints: a full disk, a closed pipe, a narrow encoding under the output.

In: sys.stdout and sys.stderr, as the shell left them. Out: the same streams, whose writes do not raise; what was lost
is known at the end. Always: one warning says so at once; no file that is opened later gets the number of a standard
stream that was closed.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from common.urls import without_credentials

NOWHERE = Path(os.devnull)


class PatientStream:
    """Stands for ``stream``: passes everything on, and drops what cannot be written."""

    def __init__(
        self, stream: TextIO, warns: Callable[[OSError], bool], change: Callable[[str], str] = lambda text: text
    ) -> None:
        """``warns`` says of which error there is a warning; ``change`` is what becomes of a text."""
        self._stream, self._warns, self._change = stream, warns, change
        self.error: OSError | None = None
        """the first that a write met; None: all was written"""

    def write(self, text: str) -> int:
        """Writes ``text`` or loses it; what the stream's encoding lacks is written as escapes."""
        shown = self._change(text)
        with self._forgiving():
            try:
                self._stream.write(shown)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As ``write``, for each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As of any stream; what is still refused is tried again with the next."""
        with self._forgiving():
            self._stream.flush()

    def finish(self) -> None:
        """Flushes for the last time: what cannot be written then goes nowhere, so that the interpreter's own flush at
        the exit does not fail on it."""
        self.flush()
        if self.error is not None:
            with contextlib.suppress(OSError, ValueError), NOWHERE.open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            first, self.error = self.error is None, self.error or _as_os_error(error)
            if first and self._warns(self.error):
                say(f"warning: standard output: {self.error.strerror}; the work goes on, what it prints is lost")


@contextlib.contextmanager
def patient_output(warns: Callable[[OSError], bool], is_data: bool = True) -> Iterator[PatientStream]:
    """Within it, sys.stdout and sys.stderr are patient; gives the former. ``warns`` says which of its errors the user
    hears of at once. Messages show no passwords of URLs; the output does not either, unless it ``is_data``."""
    occupy_standard_streams()
    before = sys.stdout, sys.stderr
    change = (lambda text: text) if is_data else without_credentials
    output = PatientStream(sys.stdout or NOWHERE.open("w"), warns, change)
    messages = PatientStream(sys.stderr or NOWHERE.open("w"), lambda error: False, without_credentials)
    sys.stdout, sys.stderr = output, messages
    try:
        yield output
    finally:
        output.finish()
        messages.finish()
        sys.stdout, sys.stderr = before


def occupy_standard_streams() -> None:
    """Opens the null device for each of the numbers 0 to 2 that is closed: a file of ours would get it, and with it
    all that other programs and libraries print."""
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            return
        os.set_inheritable(number, True)


def say(line: str) -> None:
    """Prints ``line`` on standard error, if there is one that takes it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


def in_words(error: OSError) -> str:
    """ "FILE: No space left on device" and the like."""
    name = error.filename if isinstance(error.filename, str | os.PathLike) else None
    text = error.strerror or str(error) or type(error).__name__
    return f"{os.fspath(name)}: {text}" if name is not None else text


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader has gone, as `head` does."""
    return error.errno == errno.EPIPE


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(errno.EBADF, "is closed")
