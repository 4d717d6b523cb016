"""URLs as they are shown: what gives access is gone, the rest of the text stays."""

from pathlib import Path

import pytest

from common.cli import to_yaml
from common.errors import InputError
from common.urls import values_without_credentials, without_credentials
from data.config import DataConfig, SourceConfig
from pretrain.config import RunConfig

SHOWN = {
    "https://user:secret@host/a/b": "https://host/a/b",
    "https://user:secret@host:8443/a": "https://host:8443/a",
    "https://secret@host": "https://host",
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
    "://",
]


@pytest.mark.parametrize("text", SHOWN)
def test_what_gives_access_is_taken_out(text: str) -> None:
    assert without_credentials(text) == SHOWN[text]
    assert "secret" not in str(InputError(f"data.train: {text}: cannot be read")).lower()


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_credentials(text) == text


def test_long_texts_take_no_time() -> None:
    for text in ("a://" * 20_000, "https://" + "a:" * 50_000, "x:" * 50_000 + "://@", "https://u:p" + "/a" * 50_000):
        without_credentials(text)


def test_settings_are_kept_without_them(tmp_path: Path) -> None:
    config = RunConfig(data=DataConfig(train=[SourceConfig("https://u:secret@host/shards", 2.0)]))
    text = to_yaml(config)
    assert "path: https://host/shards" in text and "secret" not in text
    assert values_without_credentials({"a": [("s3://k:p@b", 1, None)]}) == {"a": [["s3://b", 1, None]]}
