"""A report in a browser while its runs go on: a small server of one page, which is made anew when files have changed.

In: what makes the page, the files that it is made of, an address. Out: the page, to whoever asks there. Always: by
default only this machine can ask, and only under its own names; nothing but reading; a page is made by one at a time,
and at most every few seconds, since training has the cores.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common.errors import InputError

EVERY = 10
"""seconds between the questions of an open page"""
LONGEST = 60.0
"""seconds after which a page is made anew though no file has changed: it says how long a run has been silent"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WATCHED = ("*.json*", "config.yaml", "attempts/*/*", "evaluations/*", "checkpoints/*")


class LivePage:
    """The newest page of ``runs``."""

    def __init__(self, runs: Sequence[Path], make: Callable[[], str]) -> None:
        self._runs, self._make = runs, make
        self._lock = threading.Lock()
        self._stamp: object = None
        self._made = 0.0
        self._content = b""

    def content(self) -> bytes:
        """The page as bytes.

        Raises:
            InputError: the runs cannot be read just now.
        """
        with self._lock:
            age = time.monotonic() - self._made
            if not self._content or age > EVERY / 2:
                stamp = self._look()
                if stamp != self._stamp or age > LONGEST:
                    self._content = self._make().encode()
                    self._stamp, self._made = stamp, time.monotonic()
            return self._content

    def _look(self) -> object:
        """What changes with any file of the runs."""
        found = []
        for run in self._runs:
            for pattern in WATCHED:
                for path in sorted(run.glob(pattern)):
                    try:
                        status = path.stat()
                    except OSError:
                        continue  # it has just gone
                    found.append((str(path), status.st_mtime_ns, status.st_size))
        return found


def open_server(page: LivePage, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is ready to be asked; ``port`` 0 is any free one.

    Raises:
        InputError: nobody can listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]")
            if host in LOOPBACK and name not in LOOPBACK:  # a page of another site that has this address as its own
                return self._answer(403, "text/plain", b"ask for localhost")
            if self.path.partition("?")[0] != "/":
                return self._answer(404, "text/plain", b"there is one page: /")
            try:
                content = page.content()
            except (InputError, OSError) as error:
                return self._answer(503, "text/plain; charset=utf-8", str(error).encode())
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == tag:
                return self._answer(304, "text/html", b"", tag)
            return self._answer(200, "text/html; charset=utf-8", content, tag)

        def _answer(self, status: int, kind: str, content: bytes, tag: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            if tag is not None:
                self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: a line for each question would hide the address."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise InputError(f"--port {port}: nothing can be served at {host}: {error.strerror}; name another") from None
    server.daemon_threads = True
    return server
