"""A web server on loopback that redirects, asks for passwords, and notes who asked for what."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Redirecting(ThreadingHTTPServer):
    """Serves ``root``; /same/, /elsewhere/ and /port/ lead to /shards/, there, under another name and port."""

    def __init__(self, root: Path, password: str | None) -> None:
        """With ``password`` only who gives it (as "user:password") is served."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.expected = password and f"Basic {base64.b64encode(password.encode()).decode()}"
        self.asked: list[str] = []
        self.users: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.targets = {
            "same": "/shards",
            "elsewhere": f"http://localhost:{self.server_port}/shards",
            "port": "http://127.0.0.1:1/shards",
        }


class Handler(BaseHTTPRequestHandler):
    server: Redirecting

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.users.add(self.headers.get("Authorization"))
        _, folder, name = self.path.partition("?")[0].split("/", 2)
        if folder in self.server.targets:
            self.send_response(302)
            self.send_header("Location", f"{self.server.targets[folder]}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = self.server.root / folder / name
        content = path.read_bytes() if path.is_file() else b"?"
        first, last = 0, len(content)
        if span := self.headers.get("Range"):
            begin, end = span.removeprefix("bytes=").split("-")
            first, last = int(begin), int(end) + 1
        welcome = self.server.expected in (None, self.headers.get("Authorization"))
        self.send_response(403 if not path.is_file() else 401 if not welcome else 206 if span else 200)
        self.send_header("Content-Length", str(last - first))
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first:last])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(root: Path, password: str | None = None) -> Iterator[Redirecting]:
    """Within it the server answers."""
    with Redirecting(root, password) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
