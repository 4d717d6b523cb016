"""`python -m scripts.stream.store FOLDER`: an S3-compatible server that answers late and fails now and then.

In: a folder of token shards; orders on standard input. Out: moto's server with the shards in a bucket, behind a wrapper
that waits and spoils answers; one line of JSON on standard output for each order. Always: what it sends is counted,
spoiled answers included; it ends when nobody speaks to it any more.

    calm        -> answers are right from here on
    faults 25   -> every 25th answer with tokens is spoiled, in turns as FAULTS says
    tally       -> {"bytes": sent in bodies, "spoiled_bytes": ..., "answers": ..., "faults": {name: count}}
"""

import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

BUCKET = "corpus"
PORT = 9000
LATENCY = 0.05
"""seconds before each answer"""
FAULTS = ("unavailable", "cut", "short", "wrong")
"""503; a connection that ends in the middle; a whole answer with half of the bytes; one with a wrong byte"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab", "AWS_DEFAULT_REGION": "us-east-1"}
PIECE = 16 * 1024

Respond = Callable[..., Any]


class FarStore:
    """A WSGI application: another one, from afar."""

    def __init__(self, application: Callable[[dict[str, Any], Respond], Iterable[bytes]], latency: float) -> None:
        self._application, self._latency = application, latency
        self._lock, self._faults = threading.Lock(), cycle(FAULTS)
        self._every = self._asked = self._answers = self._bytes = self._spoiled_bytes = 0
        self._spoiled: Counter[str] = Counter()

    def spoil(self, every: int) -> None:
        """Spoils every so-manieth answer with tokens from here on; 0: none."""
        with self._lock:
            self._every, self._asked = every, 0

    def tally(self) -> dict[str, Any]:
        """What was sent so far."""
        with self._lock:
            return {
                "bytes": self._bytes,
                "spoiled_bytes": self._spoiled_bytes,
                "answers": self._answers,
                "faults": dict(self._spoiled),
            }

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Iterator[bytes]:
        """Answers late, and sometimes wrongly."""
        answer: list[Any] = []
        body = b"".join(self._application(environ, lambda status, headers, *_: answer.extend((status, headers))))
        status, headers = answer
        time.sleep(self._latency)
        fault = self._draw(environ)
        sent = self._spoiled_body(fault, body)
        self._count(fault, len(sent))
        if fault == "unavailable":
            status = "503 Service Unavailable"
        if fault not in (None, "cut", "wrong"):
            headers = [*((name, value) for name, value in headers if name.lower() != "content-length")]
            headers.append(("Content-Length", str(len(sent))))
        respond(status, headers)
        for start in range(0, len(sent), PIECE):
            yield sent[start : start + PIECE]
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError

    def _draw(self, environ: dict[str, Any]) -> str | None:
        """The fault that this answer gets."""
        if environ["REQUEST_METHOD"] != "GET" or not environ["PATH_INFO"].endswith(".tokens"):
            return None
        with self._lock:
            self._asked += 1
            return next(self._faults) if self._every and self._asked % self._every == 0 else None

    def _count(self, fault: str | None, size: int) -> None:
        with self._lock:
            self._answers += 1
            self._bytes += size
            if fault:
                self._spoiled[fault] += 1
                self._spoiled_bytes += size

    @staticmethod
    def _spoiled_body(fault: str | None, body: bytes) -> bytes:
        middle = len(body) // 2
        match fault:
            case "unavailable":
                return b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            case "cut" | "short":
                return body[:middle]
            case "wrong":
                return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            case _:
                return body


class Server:
    """A FarStore over moto, serving in threads of this process."""

    def __init__(self, address: str, port: int, latency: float) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept, as stores do

            def log(self, type: str, message: str, *args: Any) -> None:
                """Says nothing."""

        self.store = FarStore(DomainDispatcherApplication(create_backend_app), latency)
        self._server = make_server(address, port, self.store, threaded=True, request_handler=Quiet)
        self.url = f"http://{address}:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answers nobody any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, folder: Path) -> str:
        """Copies a folder into the bucket; returns its URL."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        )
        client.create_bucket(Bucket=BUCKET)
        for path in sorted(folder.iterdir()):
            client.put_object(Bucket=BUCKET, Key=f"{folder.name}/{path.name}", Body=path.read_bytes())
        return f"s3://{BUCKET}/{folder.name}"


def main(arguments: list[str]) -> int:
    """Serves until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    server = Server("0.0.0.0", PORT, LATENCY)
    url = Server.put(server, Path(arguments[0]))
    print(json.dumps({"url": url}), file=answers, flush=True)
    for line in sys.stdin:
        order, *numbers = line.split()
        if order != "tally":
            server.store.spoil(int(numbers[0]) if numbers else 0)
        print(json.dumps(server.store.tally()), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
