"""The exported fast tokenizer gives tiktoken's ids."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from common.errors import InputError
from data.small_bpe import train_small_bpe
from data.tokenizer import TiktokenTokenizer
from scripts.hub.fast_tokenizer import HARD_TEXTS, oniguruma, write_tokenizer
from tests.scripts.conftest import small_tokenizer


def random_texts(count: int) -> list[str]:
    """Words, numbers, blanks and scripts mixed, with many repeats of merge candidates."""
    draw = random.Random(1)
    alphabet = [
        *" \t\n\r'.!?-_/019abthinge",
        "the",
        "ing",
        "aba",
        "    ",
        "é",
        "Ω",
        "漢",
        "\u00a0",
        "\U0001f600",
        "e\u0301",
    ]
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 40))) for _ in range(count)]


@pytest.mark.parametrize("source", ["gap", "trained"])
def test_ids_equal_tiktokens_on_thousands_of_texts(source: str, tmp_path: Path) -> None:
    code = Path(train_small_bpe.__code__.co_filename).with_name("permute.py").read_text()
    tokenizer = small_tokenizer() if source == "gap" else train_small_bpe([code] * 3, 420)
    write_tokenizer(tmp_path, tokenizer, max_length=64)
    fast = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*HARD_TEXTS, *random_texts(3000), code]:
        ids = tokenizer.encode(text)
        assert fast.encode(text, add_special_tokens=False) == ids, repr(text)
        assert fast.decode(ids) == tokenizer.decode(ids)
    assert fast("<|endoftext|>").input_ids == tokenizer.encode("<|endoftext|>") != [tokenizer.eod_id]


def test_counted_repeats_and_the_end_of_text_are_translated() -> None:
    assert oniguruma(r"\p{N}{1,3}+|\s++$|\$") == r"\p{N}{1,3}|\s++\z|\$"


def test_a_tokenizer_without_an_equal_fast_form_is_refused(tmp_path: Path) -> None:
    """A pattern that stops at the last word: tiktoken skips what a pattern does not match, `tokenizers` keeps it."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = TiktokenTokenizer("words only", r"\w+", ranks, {"<|endoftext|>": 256}, 256)
    with pytest.raises(InputError, match="no equal fast form"):
        write_tokenizer(tmp_path, tokenizer, max_length=64)


def test_left_padding_of_a_batch(export_of: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export_of("diff"), trust_remote_code=True)
    batch = tokenizer(["the thing", "a"], padding=True)
    assert batch["attention_mask"][1][0] == 0 and batch["attention_mask"][1][-1] == 1
