"""Damaged and hostile manifests: a manifest whose numbers mean something, or one line."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.config import CacheConfig, DataConfig
from data.manifest import MANIFEST_FILE, Manifest, Shard, parse_manifest
from data.source import open_source
from data.stream import open_validation
from tests.data.helpers import random_tokens, write_dataset
from tests.fuzz.rules import answer, fuzz

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 300, 1000, 65535, 65536, 2**31, 2**53, 2**63 - 1, 2**63, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 300.0, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", " ", "x", "300", "uint8", "uint32", "int64", "float32", ">u2", "object", "f" * 32, "F" * 32, "0" * 64),
    *("../00000.tokens", "..", ".", "/etc/hostname", "/dev/zero", "a\0b", "\ud800", "x" * 5000, "00001.tokens"),
    *([], {}, [[]], [{}], [None], [1], {"a": 1}, {"fingerprint": 5}, {"fingerprint": "f"}, {"kind": "x"}),
]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = st.one_of(st.sampled_from(VALUES), st.integers(-5, 400), TREES)
MISSING = object()
PLACES: list[tuple[str | int, ...]] = [
    *((entry.name,) for entry in dataclasses.fields(Manifest)),
    *(("shards", number, entry.name) for number in (0, 1) for entry in dataclasses.fields(Shard)),
    *(("shards", 1), ("tokenizer", "fingerprint"), ("tokenizer", "kind"), ("tokenizer", "more"), ("surprise",)),
    ("shards", 0, "surprise"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = [random_tokens(300, 1, vocab_size=300), random_tokens(200, 2, vocab_size=300)]
    return write_dataset(tmp_path_factory.mktemp("shards") / "shards", tokens, vocab_size=300)


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    return (folder / MANIFEST_FILE).read_text()


def with_value(document: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """``document`` with another value at ``place``, as far as there is such a place."""
    if not place:
        return value
    if not isinstance(document, dict | list) or (isinstance(document, list) and not isinstance(place[0], int)):
        return document
    if isinstance(document, list) and int(place[0]) >= len(document):
        return document
    copy: Any = document.copy()
    if value is MISSING and len(place) == 1:
        if isinstance(copy, list) or place[0] in copy:
            del copy[place[0]]
        return copy
    inner = document.get(place[0]) if isinstance(document, dict) else document[int(place[0])]
    copy[place[0]] = with_value(inner, place[1:], value)
    return copy


def check(content: bytes, folder: Path) -> None:
    """One line, or numbers that fit each other and tokens that lie in the vocabulary."""
    manifest, _ = answer(lambda: parse_manifest(content, "here/manifest.json"))
    if manifest is None:
        return
    assert type(manifest.version) is int
    assert 0 <= manifest.largest_id < manifest.vocab_size
    assert 0 <= manifest.eod_id < manifest.vocab_size
    assert math.isfinite(manifest.unigram_entropy) and manifest.unigram_entropy >= 0
    assert manifest.text_bytes >= 0
    assert manifest.tokens == sum(shard.tokens for shard in manifest.shards) >= 0
    assert all(shard.tokens >= 0 and shard.header_bytes >= 0 and shard.documents >= 0 for shard in manifest.shards)
    assert len(manifest.dataset_id()) == 64
    (folder / MANIFEST_FILE).write_bytes(content)
    source, _ = answer(lambda: open_source(str(folder), CacheConfig()))
    if source is not None and manifest.tokens:
        tokens, _ = answer(lambda: source.reader.read(0, min(manifest.tokens, 1000)))
        assert tokens is None or tokens.size == min(manifest.tokens, 1000)
    stream, _ = answer(lambda: open_validation(DataConfig(validation=str(folder), sequence_length=8)))
    if stream is not None and stream.num_samples:
        sample, _ = answer(lambda: stream.fetch(np.array([0])))
        assert sample is None or sample.shape == (1, 9)


@fuzz(quick=800, long=1800)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), HOSTILE | st.just(MISSING)), min_size=1, max_size=3))
def test_a_manifest_with_other_values(
    changes: list[tuple[tuple[str | int, ...], Any]], folder: Path, whole: str
) -> None:
    document: Any = json.loads(whole)
    for place, value in changes:
        document = with_value(document, place, value)
    check(json.dumps(document).encode(), folder)


@fuzz(quick=200, long=700)
@given(at=st.floats(0, 1), length=st.integers(0, 60), junk=st.binary(max_size=8) | st.sampled_from([b"[" * 9999, b'"']))
def test_a_manifest_cut_and_overwritten(at: float, length: int, junk: bytes, folder: Path, whole: str) -> None:
    place = int(at * len(whole))
    check(whole.encode()[:place] + junk + whole.encode()[place + length :], folder)


def test_every_value_at_every_place(folder: Path, whole: str) -> None:
    for place in PLACES:
        for value in [*VALUES, MISSING]:
            document = with_value(json.loads(whole), place, value)
            try:
                check(json.dumps(document).encode(), folder)
            except Exception as error:
                error.add_note(f"{place} was {str(value)[:100]}")
                raise
