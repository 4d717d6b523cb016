"""The exported fast tokenizer gives tiktoken's ids."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import AutoTokenizer

from common.errors import InputError
from data.small_bpe import train_small_bpe
from data.tokenizer import HuggingFaceTokenizer, TiktokenTokenizer, load_tokenizer
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
    write_tokenizer(tmp_path, tokenizer, max_length=64, vocab_size=tokenizer.vocab_size)
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
        write_tokenizer(tmp_path, tokenizer, max_length=64, vocab_size=tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("own", "ids", "name", "index"),
    [
        ({}, 307, "<|pad|>", 306),
        ({}, 306, "þ", 254),  # a byte that stands in no UTF-8
        ({"<pad>": 303}, 400, "<pad>", 303),
    ],
)
def test_padding_is_not_the_end_and_its_name_in_a_text_is_text(
    own: dict[str, int], ids: int, name: str, index: int, tmp_path: Path
) -> None:
    tokenizer = small_tokenizer()
    special = tokenizer.special_tokens | own
    tokenizer = TiktokenTokenizer("small", tokenizer.pattern, tokenizer.ranks, special, tokenizer.eod_id)
    assert write_tokenizer(tmp_path, tokenizer, max_length=64, vocab_size=ids) == index
    fast = AutoTokenizer.from_pretrained(tmp_path)
    assert (fast.pad_token, fast.pad_token_id) == (name, index)
    assert fast.eos_token_id == tokenizer.eod_id != index
    text = f"a þing, {name}{name} or\n{name}"
    assert fast(text).input_ids == tokenizer.encode(text)
    assert index not in fast(text).input_ids
    batch = fast(["the thing", "a"], padding=True)
    assert batch["input_ids"][1][0] == index and batch["attention_mask"][1][0] == 0


def test_a_tokenizer_of_others_pads_with_a_free_id_and_else_with_its_end(tmp_path: Path) -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "<eos>": 3}, unk_token="<unk>"))
    backend.add_special_tokens(["<eos>"])
    tokenizer = HuggingFaceTokenizer(backend.to_str(), "words")
    for ids, index in ((5, 4), (4, 3)):
        assert write_tokenizer(tmp_path, tokenizer, max_length=64, vocab_size=ids) == index
        assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == index
        assert load_tokenizer(tmp_path).answers_to(tokenizer.fingerprint)


def test_left_padding_of_a_batch(export_of: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(export_of("diff"), trust_remote_code=True)
    batch = tokenizer(["the thing", "a"], padding=True)
    assert batch["attention_mask"][1][0] == 0 and batch["attention_mask"][1][-1] == 1
