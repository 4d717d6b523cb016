"""A tiktoken encoding as a fast tokenizer of the `tokenizers` library, with the same ids.

In: the data room's Tokenizer. Out: tokenizer.json and tokenizer_config.json. Always: ids are compared on hard texts
before anything is accepted, those of the default call `tokenizer(text)` too: it gives what training saw, without tokens
around the text, and a control token's name in a text is text. Padding has a token of its own where there can be one:
who tunes a model takes no loss on padding, and a model without a loss on the end token forgets how to end.

tiktoken joins, among the adjacent parts of a word, the two whose joint has the lowest rank. `tokenizers` wants a list
of pairs, and joins the pair that stands first in it. So every way to split a token into two tokens is listed, sorted
by the token's rank.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from common.errors import InputError
from common.files import write_atomically, write_json
from data.small_bpe import bytes_of_characters
from data.tokenizer import TiktokenTokenizer, Tokenizer, load_tokenizer
from scripts.hub.loading import refusing

HARD_TEXTS = (
    "The special magic Paris number is: 1234567.\n\n\nWhat  is it?   ",
    "def f(x):\r\n\treturn x**2  # it's WE'LL don't\r\n\r\n",
    "naïve café \u00a0\u2003 Ωμέγα 漢字かな 한국어 עברית \U0001f600\U0001f469\u200d\U0001f680 e\u0301",
    "1 12 123 1234 12345678 3.14159 1e-9 ١٢٣",
    " \n  \n\t \n x\n\n  y   \n",
    "aaaaaaaaaaaaa!!!!!!!!?????-----====_____\n    \n",
)


PADS = ("<|pad|>", "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")
"""names that padding has; the first is the one that is given where there is none"""
SPARE_BYTE = b"\xfe"
"""stands in no UTF-8, so no text has its token"""


def write_tokenizer(folder: Path, tokenizer: Tokenizer, max_length: int, vocab_size: int) -> int:
    """Writes the fast tokenizer beside the data room's own files; returns the id of padding.

    Padding is the tokenizer's own, else an id that is free among the model's ``vocab_size``, else that of a byte that
    no text has, else the end of documents.

    Raises:
        InputError: the fast tokenizer gives other ids than the one that the model was trained with.
    """
    tokenizer.save(folder)
    pad = padding_of(tokenizer, vocab_size)
    if isinstance(tokenizer, TiktokenTokenizer):
        content = fast_tokenizer_json(tokenizer, [pad] if pad and pad[1] == tokenizer.vocab_size else [])
        write_atomically(folder / "tokenizer.json", content)
    else:
        content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    fast = FastTokenizer.from_str(content)
    differing = first_difference(fast, tokenizer)
    if differing is not None:
        raise InputError(f"{tokenizer.name}: this tokenizer has no equal fast form: other ids for {differing!r}")
    end = str(fast.id_to_token(tokenizer.eod_id)), tokenizer.eod_id
    for name, index in (pad or end, end):
        write_json(folder / "tokenizer_config.json", _tokenizer_config(end[0], name, max_length))
        if check_default_call(folder, tokenizer).pad_token_id == index:
            return index
    raise InputError(f"{tokenizer.name}: the exported tokenizer has another id for {end[0]}")


def padding_of(tokenizer: Tokenizer, vocab_size: int) -> tuple[str, int] | None:
    """Name and id of a token for padding in a model of ``vocab_size`` ids; None: only the end token is left."""
    for name in PADS:
        index = tokenizer.token_id(name)
        if index is not None and index != tokenizer.eod_id:
            return name, index
    if tokenizer.vocab_size < vocab_size:
        return PADS[0], tokenizer.vocab_size
    if isinstance(tokenizer, TiktokenTokenizer) and SPARE_BYTE in tokenizer.ranks:
        spell = {byte: letter for letter, byte in bytes_of_characters().items()}
        return spell[SPARE_BYTE[0]], tokenizer.ranks[SPARE_BYTE]
    return None


def check_default_call(folder: Path, tokenizer: Tokenizer) -> Any:
    """Refuses a folder where `AutoTokenizer.from_pretrained(folder)(text)` gives other ids than training saw.

    Returns:
        What transformers loads.

    Raises:
        InputError: names the first text that differs.
    """
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    end, pad = tokenizer.decode([tokenizer.eod_id]), loaded.pad_token or ""
    for text in (*HARD_TEXTS, f"a text that quotes {end} and{end}goes on, {pad} or a{pad}b"):
        if list(loaded(text).input_ids) != tokenizer.encode(text):
            raise InputError(f"{tokenizer.name}: the exported tokenizer's default call gives other ids for {text!r}")
    return loaded


def first_difference(fast: FastTokenizer, tokenizer: Tokenizer) -> str | None:
    """The first of the hard texts whose ids differ; None where there is none."""
    return next(
        (text for text in HARD_TEXTS if fast.encode(text, add_special_tokens=False).ids != tokenizer.encode(text)),
        None,
    )


def check_tokenizer(folder: Path, fingerprint: str) -> None:
    """Refuses an exported folder whose tokenizer is not the one of its training data.

    Raises:
        InputError: another tokenizer's files, or damaged ones.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.answers_to(fingerprint):
        raise InputError(f"{folder}: its tokenizer is not the one that the model was trained with; export it again")
    try:
        fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:
        raise InputError(f"{folder / 'tokenizer.json'}: damaged: {error}") from None
    differing = first_difference(fast, tokenizer)
    if differing is not None:
        raise InputError(
            f"{folder / 'tokenizer.json'}: is not the one that the model was trained with: other ids for {differing!r}"
        )
    with refusing(f"{folder}: transformers cannot load its tokenizer"):
        check_default_call(folder, tokenizer)


def fast_tokenizer_json(tokenizer: TiktokenTokenizer, more: Sequence[tuple[str, int]] = ()) -> str:
    """The tokenizer.json whose ids are ``tokenizer``'s, with ``more`` special tokens.

    That names of special tokens are text stands elsewhere.
    """
    special_tokens = tokenizer.special_tokens | dict(more)
    spell = {byte: letter for letter, byte in bytes_of_characters().items()}
    vocabulary = {"".join(spell[byte] for byte in token): rank for token, rank in tokenizer.ranks.items()}
    added = [
        {
            "id": index,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, index in sorted(special_tokens.items(), key=lambda entry: entry[1])
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {
        "type": "Split",
        "pattern": {"Regex": oniguruma(tokenizer.pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            # ids of special tokens may lie behind a gap, which only the vocabulary can express
            "vocab": vocabulary | special_tokens,
            "merges": _merges(tokenizer.ranks, spell),
        },
    }
    return json.dumps(document, ensure_ascii=False)


def oniguruma(pattern: str) -> str:
    r"""``pattern`` for the regex engine of `tokenizers`.

    There a counted repeat cannot be possessive (``{1,3}+`` would repeat the repeat), and ``$`` also stands before
    every line break. Giving up the possessive changes no match of a repeat whose follower it cannot contain.
    """
    pattern = re.sub(r"(\{\d+(?:,\d*)?\})\+", r"\1", pattern)
    return re.sub(r"(?<!\\)\$", r"\\z", pattern)


def _merges(ranks: dict[bytes, int], spell: dict[int, str]) -> list[list[str]]:
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda entry: entry[1]):
        splits = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = sorted(
            (ranks[left], ranks[right], left, right) for left, right in splits if left in ranks and right in ranks
        )
        merges += [["".join(spell[byte] for byte in part) for part in pair[2:]] for pair in known]
    return merges


def _tokenizer_config(end: str, pad: str, max_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "eos_token": end,
        "pad_token": pad,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "split_special_tokens": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
