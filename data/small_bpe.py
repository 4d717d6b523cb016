"""The project's own small byte-level BPE, for the embedded corpus and for desk-size runs.

In: texts and a vocabulary size. Out: a TiktokenTokenizer. Always: the same texts in the same order give the
same tokenizer; every byte has an id, so every text can be encoded.
"""

import re
from collections.abc import Iterable

from common.errors import InputError
from data.tokenizer import TiktokenTokenizer

NAME = "small-bpe"
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""cl100k_base's pattern without `\\s+$`, which the trainer's regex engine reads in another way."""

LONGEST_RUN = 1000
LONG_RUN = re.compile(rf"\S{{{LONGEST_RUN},}}|\s{{{LONGEST_RUN},}}")
"""Runs of letters or of spaces that are cut: the trainer's time grows with the square of a run's length."""

EOD = "<|endoftext|>"


def train_small_bpe(texts: Iterable[str], vocab_size: int) -> TiktokenTokenizer:
    """Trains on ``texts``; the vocabulary is 256 bytes, merges, and EOD as the last id.

    It has ``vocab_size`` entries in all, fewer where the texts offer no more merges.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise InputError(f"--vocab-size: must be at least 257 (256 bytes and the end of a document), is {vocab_size}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, special_tokens=[], initial_alphabet=alphabet, show_progress=False
    )
    shortened = (LONG_RUN.sub(lambda run: run[0][:LONGEST_RUN], text) for text in texts)
    backend.train_from_iterator(shortened, trainer)
    to_byte = bytes_of_characters()
    vocabulary = {bytes(to_byte[character] for character in token): i for token, i in backend.get_vocab().items()}
    return TiktokenTokenizer(NAME, PATTERN, vocabulary, {EOD: len(vocabulary)}, len(vocabulary), kind=NAME)


def bytes_of_characters() -> dict[str, int]:
    """The byte behind each character of the byte-level alphabet: printable ones stand for themselves (GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
