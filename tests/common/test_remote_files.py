"""Web servers that send the reader elsewhere, and URLs with passwords, against a server on loopback."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import InputError
from common.remote_files import check_redirect, file_in
from data.config import CacheConfig
from data.source import open_source
from data.unpack import opened
from data.verify import VerifyConfig, verify
from pretrain.checkpoint.remote import RemoteCheckpoints
from tests.common.web_server import Redirecting, serving
from tests.data.helpers import random_tokens, write_dataset


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redirecting]:
    root = tmp_path_factory.mktemp("web")
    write_dataset(root / "shards", [random_tokens(5000, 1)])
    with serving(root) as server:
        yield server


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


def test_variables_of_the_environment_give_access(
    server: Redirecting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url.replace("://", "://${WHO}:${PASSWORD}@") + "/shards?sig=${SIG}"
    for name, value in (("WHO", "we"), ("PASSWORD", "b/c@d"), ("SIG", "secret")):
        with pytest.raises(InputError, match=rf"^{server.url}/shards: {name} is not set in the environment"):
            open_source(url, small_cache(tmp_path))
        monkeypatch.setenv(name, value)
    server.asked.clear()
    monkeypatch.setenv("PASSWORD", "secret")
    assert open_source(url, small_cache(tmp_path)).manifest.tokens == 5000
    assert server.asked == ["/shards/manifest.json?sig=secret"]
    assert f"Basic {base64.b64encode(b'we:secret').decode()}" in server.users


def test_a_signed_query_stays_behind_the_name() -> None:
    assert file_in("https://host/a/?sig=1", "b.tokens") == "https://host/a/b.tokens?sig=1"
    assert file_in("bucket/a?b", "c") == "bucket/a?b/c"
