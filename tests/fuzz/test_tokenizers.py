"""Damaged and hostile tokenizers: a tokenizer whose ids are ids, or one line."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from data.tokenizer import LARGEST_VOCABULARY, TiktokenTokenizer, Tokenizer, load_tokenizer, named_tokenizer
from tests.fuzz.json_values import VALUES, changed, changes
from tests.fuzz.rules import answer, fuzz

TEXTS = st.text(max_size=60) | st.sampled_from(["<eos>", "a <eos> b", "<|endoftext|>x", " \n <eos>"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0} | {letter: number for number, letter in enumerate(letters, start=1)} | {"ab": 300}
    backend = Backend(models.BPE(vocabulary, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    document: dict[str, Any] = json.loads(backend.to_str())
    return document


def check(tokenizer: Tokenizer | None, text: str) -> None:
    """What is accepted has a meaning."""
    if tokenizer is None:
        return
    ids = tokenizer.encode(text)
    assert all(0 <= index < tokenizer.vocab_size <= LARGEST_VOCABULARY for index in ids)
    assert tokenizer.eod_id not in ids
    assert ids == tokenizer.encode(text)


@fuzz(quick=400, long=1500)
@given(change=changes(), text=TEXTS)
def test_a_tokenizer_json_with_other_values(
    change: list[tuple[list[float], Any]], text: str, plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    document: Any = plain
    for place, value in change:
        document = changed(document, place, value)
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(document))
    tokenizer, _ = answer(lambda: named_tokenizer(str(path)))
    check(tokenizer, text)


@fuzz(quick=150, long=500)
@given(cut=st.integers(0, 4000), junk=st.binary(max_size=30))
def test_a_tokenizer_json_cut_and_overwritten(
    cut: int, junk: bytes, plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = json.dumps(plain).encode()
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(content[:cut] + junk + content[cut + 2 * len(junk) :])
    check(answer(lambda: named_tokenizer(str(path)))[0], "a <eos> b")


@fuzz(quick=200, long=500)
@given(change=changes(), line=st.binary(max_size=20), number=st.integers(0, 256))
def test_a_saved_tiktoken_tokenizer_with_other_values(
    change: list[tuple[list[float], Any]], line: bytes, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "saved"
    folder.mkdir(exist_ok=True)
    pattern = r"\w+|\s+|[^\w\s]+"
    ranks = {bytes([byte]): byte for byte in range(256)}
    TiktokenTokenizer("x", pattern, ranks, {"<|endoftext|>": 256}, 256).save(folder)
    info: Any = json.loads((folder / "tokenizer_info.json").read_text())
    for place, value in change:
        info = changed(info, place, value)
    (folder / "tokenizer_info.json").write_text(json.dumps(info))
    check(answer(lambda: load_tokenizer(folder))[0], "a <|endoftext|> b")
    TiktokenTokenizer("x", pattern, ranks, {"<|endoftext|>": 256}, 256).save(folder)
    lines = (folder / "tokenizer.tiktoken").read_bytes().splitlines()
    lines[number % 256] = line if number % 2 else base64.b64encode(line) + b" %d" % number
    (folder / "tokenizer.tiktoken").write_bytes(b"\n".join(lines))
    check(answer(lambda: load_tokenizer(folder))[0], "a <|endoftext|> b")


@fuzz(quick=100, long=300)
@given(config=VALUES | st.builds(lambda value: {"eos_token": value}, VALUES))
def test_the_configuration_beside_a_tokenizer_json(
    config: Any, plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "beside"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(plain))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    check(answer(lambda: named_tokenizer(str(folder)))[0], "a <eos> b")
