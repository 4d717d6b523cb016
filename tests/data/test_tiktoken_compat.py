"""One contract test for each private name of tiktoken."""

import pytest
import tiktoken

from data import tiktoken_compat

RANKS = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}


@pytest.fixture(scope="module")
def encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding("own", pat_str=r"\w+|\W", mergeable_ranks=RANKS, special_tokens={"<|end|>": 300})


def test_merges_are_those_that_it_was_made_of(encoding: tiktoken.Encoding) -> None:
    assert tiktoken_compat.merges(encoding) == RANKS


def test_so_are_special_tokens(encoding: tiktoken.Encoding) -> None:
    assert tiktoken_compat.special_tokens(encoding) == {"<|end|>": 300}


def test_so_is_the_pattern(encoding: tiktoken.Encoding) -> None:
    assert tiktoken_compat.pattern(encoding) == r"\w+|\W"


def test_the_registry_knows_where_an_encoding_is_fetched_from() -> None:
    assert "cl100k_base" in tiktoken.list_encoding_names()
    (address,) = tiktoken_compat.file_addresses("cl100k_base")
    assert address.startswith("https://") and address.endswith("/cl100k_base.tiktoken")
    assert tiktoken_compat.file_addresses("nobody's") == []
