"""URLs as they are shown: what gives access is gone, the rest of the text stays."""

import sys
from pathlib import Path

import pytest

from common.cli import parse_config, run_command, to_yaml
from common.errors import InputError
from common.typed import shortened
from common.urls import (
    references_in,
    references_in_values,
    resolved,
    values_without_credentials,
    with_references,
    without_credentials,
)
from data.config import DataConfig, SourceConfig
from pretrain.config import RunConfig

SHOWN = {
    "https://user:secret@host/a/b": "https://host/a/b",
    "https://user:secret@host:8443/a": "https://host:8443/a",
    "https://secret@host": "https://host",
    str(Path("https://user:secret@host/a?sig=secret")): "https:/host/a",
    str(Path("s3://key:se/cret@bucket/a")): "s3:/bucket/a",
    "s3://key:se/cr?et#x@bucket/folder": "s3://bucket/folder",
    "s3://key:sec@ret@bucket/folder": "s3://bucket/folder",
    "HTTPS://User:Secret@Host/x": "HTTPS://Host/x",
    "simplecache::https://u:secret@host/x": "simplecache::https://host/x",
    "https://host/x?X-Amz-Signature=secret&X-Amz-Expires=9": "https://host/x",
    "https://host/x?sv=2024&sig=se%2Fcret#token=secret": "https://host/x",
    "https://host/x#access_token=secret": "https://host/x",
    "cannot read 'https://u:secret@host/x?token=secret': 403, url=URL('https://u:secret@host/x?token=secret')": (
        "cannot read 'https://host/x': 403, url=URL('https://host/x')"
    ),
    "https://host/x?token=secret: no such file": "https://host/x: no such file",
    "one https://a:secret@b/c, another ftp://d:secret@e.": "one https://b/c, another ftp://e.",
}
KEPT = [
    "",
    "corpora/train",
    "what?! a@b.org",
    "https://host/a@b",
    "https://host:8000/a@b",
    "https://host:8000: refused by me@here",
    "https://[::1]:80/x",
    "http://127.0.0.1:81/shards/manifest.json: no such file",
    "s3://bucket/a b/c",
    "file:///data/x",
    "/a:/b@c?d, site:/data@x",
    "://",
]


@pytest.mark.parametrize("text", SHOWN)
def test_what_gives_access_is_taken_out(text: str) -> None:
    assert without_credentials(text) == SHOWN[text]
    assert "secret" not in str(InputError(f"data.train: {text}: cannot be read")).lower()


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_credentials(text) == text


KEPT_IN_FILES = {
    "https://user:secret@data.example.com:8443/a": "https://${ACCESS_DATA_EXAMPLE_COM}@data.example.com:8443/a",
    "https://token@host/x": "https://${ACCESS_HOST}@host/x",
    "HTTPS://u:p@Host": "HTTPS://${ACCESS_HOST}@Host",
    "s3://key:se/cr?et#x@my-bucket/a": "s3://${ACCESS_MY_BUCKET}@my-bucket/a",
    "https://host/x?X-Amz-Signature=secret&a=b": "https://host/x?${QUERY_HOST}",
    "https://host/x#access_token=secret": "https://host/x#${QUERY_HOST}",
    "https://u:p@host/x?sig=s": "https://${ACCESS_HOST}@host/x?${QUERY_HOST}",
    "https://u:p@[::1]:80/x": "https://${ACCESS_URL}@[::1]:80/x",
    "simplecache::https://u:p@host/x": "simplecache::https://${ACCESS_HOST}@host/x",
    "curl -u x https://u:p@host/{run}?run={run} -o a": "curl -u x https://${ACCESS_HOST}@host/{run}?run={run} -o a",
    "curl https://host/hook?token=secret&run={run}": "curl https://host/hook?${QUERY_HOST}",
}
KEPT_AS_THEY_ARE = [
    *KEPT,
    "https://${A}@host/x",
    "https://${A}:${B}@host/x?${C}",
    "https://me:${PASSWORD}@host/x?sig=${SIG}&v=${V}",
    "sftp://me@host/x",
    "curl https://host/hook?run={run}",
    "https://${not a name}",
]


@pytest.mark.parametrize("text", KEPT_IN_FILES)
def test_files_name_variables_in_place_of_what_gives_access(text: str) -> None:
    kept = with_references(text)
    assert kept == KEPT_IN_FILES[text]
    assert with_references(kept) == kept
    assert without_credentials(kept) == without_credentials(text)


@pytest.mark.parametrize("text", KEPT_AS_THEY_ARE)
def test_what_gives_no_access_is_kept(text: str) -> None:
    assert with_references(text) == text


def test_variables_are_filled_in_as_they_are() -> None:
    url = "https://${ACCESS_HOST}@host/a?${Q}&x=$Q&${Q"
    assert resolved(url, {"ACCESS_HOST": "me:se${Q}cret", "Q": "s=1"}) == "https://me:se${Q}cret@host/a?s=1&x=$Q&${Q"
    assert references_in(url) == ["ACCESS_HOST", "Q"]
    with pytest.raises(KeyError, match="Q"):
        resolved(url, {"ACCESS_HOST": ""})
    assert resolved("a/${HOME}", {}) == "a/${HOME}", "no URL: a file's name"
    assert references_in_values({"a": ["${HOME}", {"b": url}], "c": 1}) == ["ACCESS_HOST", "Q"]


def test_long_texts_take_no_time() -> None:
    for text in ("a://" * 20_000, "https://" + "a:" * 50_000, "x:" * 50_000 + "://@", "https://u:p" + "/a" * 50_000):
        with_references(without_credentials(text) + text)


def test_settings_are_kept_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(data=DataConfig(train=[SourceConfig("https://u:secret@host/shards?s=ecret", 2.0)]))
    text = to_yaml(config)
    assert "path: https://${ACCESS_HOST}@host/shards?${QUERY_HOST}" in text and "secret" not in text
    (tmp_path / "c.yaml").write_text(text)
    assert to_yaml(parse_config(RunConfig, [f"--config={tmp_path / 'c.yaml'}"], "test")) == text
    assert values_without_credentials({"a": [("s3://k:p@b", 1, None)]}) == {"a": [["s3://b", 1, None]]}


def test_a_message_cuts_no_url_halfway() -> None:
    """What is cut between password and @ would no longer look like one."""
    assert "secret" not in shortened(f"https://user:{'secret' * 40}@host/x")
    for flag in ("--data.train", "--train.steps", "--model.attention"):
        with pytest.raises(InputError) as refusal:
            parse_config(RunConfig, [f"{flag}=https://user:{'secret' * 40}@host/x"], "test")
        assert "secret" not in str(refusal.value)


def test_tracebacks_and_messages_show_none(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://me:secret@host/x?sig=secret"

    def main(arguments: list[str]) -> None:
        print(url)
        print(f"warning: {url}", file=sys.stderr)
        raise RuntimeError(f"403, {url}")

    for training in (False, True):
        with pytest.raises(RuntimeError) as error:
            run_command(main, [], training=training)
        sys.excepthook(error.type, error.value, error.tb)
        out, err = capsys.readouterr()
        assert "secret" not in err and err.count("https://host/x") == 2 and "RuntimeError: 403" in err
        assert out == ("https://host/x\n" if training else f"{url}\n"), "data is left as it is"
