"""Web servers that send the reader elsewhere, and URLs with passwords, against a server on loopback."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.remote_files import check_redirect, file_in
from data.config import CacheConfig
from data.source import open_source
from data.unpack import opened
from data.verify import VerifyConfig, verify
from pretrain.checkpoint.remote import RemoteCheckpoints
from tests.data.helpers import random_tokens, write_dataset


class Redirecting(ThreadingHTTPServer):
    """Serves ``root``/shards; /same/, /elsewhere/ and /port/ lead there, to another name and to another port."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
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
        content = path.read_bytes() if path.is_file() else b""
        first, last = 0, len(content)
        if span := self.headers.get("Range"):
            begin, end = span.removeprefix("bytes=").split("-")
            first, last = int(begin), int(end) + 1
        self.send_response((206 if span else 200) if path.is_file() else 403)
        self.send_header("Content-Length", str(last - first))
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[first:last])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redirecting]:
    root = tmp_path_factory.mktemp("web")
    write_dataset(root / "shards", [random_tokens(5000, 1)])
    with Redirecting(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def small_cache(folder: Path) -> CacheConfig:
    return CacheConfig(str(folder / "cache"), 0.05, attempts=3, backoff=0.01, timeout=5.0, block_bytes=1 << 14)


def test_a_redirect_on_the_own_host_is_followed(server: Redirecting, tmp_path: Path) -> None:
    assert open_source(f"{server.url}/same", small_cache(tmp_path)).manifest.tokens == 5000
    with opened(f"{server.url}/same/manifest.json", None) as file:
        assert file.read() == (server.root / "shards" / "manifest.json").read_bytes()


@pytest.mark.parametrize("folder", ["elsewhere", "port"])
def test_a_redirect_to_another_host_is_refused_at_once(folder: str, server: Redirecting, tmp_path: Path) -> None:
    target = server.targets[folder].removesuffix("/shards")
    expected = f"{server.url} sends the reader on to {target}, which nobody named"
    server.asked.clear()
    with pytest.raises(InputError) as refusal:
        open_source(f"{server.url}/{folder}", small_cache(tmp_path))
    assert expected in str(refusal.value)
    assert server.asked == [f"/{folder}/manifest.json"], "tried again, or followed"
    with pytest.raises(InputError, match="which nobody named"), opened(f"{server.url}/{folder}/x", None) as file:
        file.read()
    assert not [path for path in server.asked if path.startswith("/shards")]


def test_hosts_are_compared_by_name_port_and_scheme() -> None:
    check_redirect("http://host/a", "https://HOST/a")  # to encryption is no other host
    check_redirect("https://host/a", "b/c")
    check_redirect("https://host:443/a", "https://host/b")
    for url, target in (
        ("https://host/a", "http://host/a"),
        ("https://host/a", "https://host.evil/a"),
        ("https://host/a", "//evil/a"),
        ("https://host/a", "https://host@evil/a"),
        ("https://host/a", "https://host:99999/a"),
        ("https://host/a", "file:///etc/passwd"),
        ("http://host:8080/a", "https://host/a"),
    ):
        with pytest.raises(InputError, match="sends the reader on to"):
            check_redirect(url, target)


def test_passwords_of_a_url_are_used_and_not_shown(
    server: Redirecting, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.url.replace("://", "://me:secret@") + "/shards?sig=secret"
    cache = small_cache(tmp_path)
    server.asked.clear()
    source = open_source(url, cache)
    assert source.manifest.tokens == 5000
    assert server.asked == ["/shards/manifest.json?sig=secret"]
    assert f"Basic {base64.b64encode(b'me:secret').decode()}" in server.users
    shown = f"{server.url}/shards"
    assert source.name == source.storage.location == shown
    verdict = verify(VerifyConfig([url], workers=1, cache=cache))[0]
    assert verdict.path == shown and not verdict.damages  # the tokens of the shard were read
    with pytest.raises(InputError, match=f"{shown}/none/manifest.json: not readable after 3 tries: .*403") as refusal:
        open_source(url.replace("/shards", "/shards/none"), cache)
    assert "secret" not in str(refusal.value)
    assert RemoteCheckpoints(url).url == shown
    with pytest.raises(InputError, match=r"checkpoint.remote: nofs://host/x: cannot be read") as refusal:
        RemoteCheckpoints("nofs://me:secret@host/x")
    assert "secret" not in str(refusal.value) + "".join(capfd.readouterr())


def test_a_signed_query_stays_behind_the_name() -> None:
    assert file_in("https://host/a/?sig=1", "b.tokens") == "https://host/a/b.tokens?sig=1"
    assert file_in("bucket/a?b", "c") == "bucket/a?b/c"
