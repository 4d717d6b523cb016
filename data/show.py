"""What training will read, for people's eyes: `python -m data show FOLDER`.

In: a folder of token shards, or the one with train/ and validation/ in it. Out: a few stretches of its tokens, decoded,
with the borders of documents. Always: the same stretches at every call; nothing in a text reaches the terminal as a
control code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from common.errors import InputError
from common.ranges import LONGEST_SEQUENCE, MOST_STEPS, check_filled, check_range
from data.config import CacheConfig
from data.source import TokenSource, folders_of, open_source, tokenizer_of
from data.tokenizer import Tokenizer

BORDER = "-------- end of document --------"


@dataclass(frozen=True)
class ShowConfig:
    """Which tokens are shown."""

    folder: str
    """folder or URL of token shards, or the folder with train/ and validation/ that `prepare` wrote"""
    samples: int = 3
    """stretches, evenly spread"""
    tokens: int = 256
    """tokens of one stretch"""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        check_filled(self, "--", "folder")
        check_range(self, "--", "samples", low=1, high=MOST_STEPS)
        check_range(self, "--", "tokens", low=1, high=LONGEST_SEQUENCE)


def show(config: ShowConfig) -> Iterator[str]:
    """The lines to print.

    Raises:
        InputError: no token shards there, damaged ones, or a tokenizer that is not theirs.
    """
    for folder in folders_of(config.folder):
        source = open_source(folder, config.cache)
        tokenizer = tokenizer_of(source)
        manifest = source.manifest
        yield (
            f"{folder}: {manifest.documents:,} documents, {manifest.tokens:,} tokens of {manifest.dtype}, tokenizer "
            f"{printable(manifest.tokenizer['name'])}"
        )
        for first in _places(manifest.tokens, config):
            count = min(config.tokens, manifest.tokens - first)
            yield f"\n======== tokens {first:,} to {first + count - 1:,} ========"
            yield from _stretch(source, tokenizer, first, count)
        yield ""


def printable(text: str) -> str:
    """``text`` with escapes in place of all that a terminal would not show as a character."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _places(tokens: int, config: ShowConfig) -> list[int]:
    """The first token of each stretch; fewer where they would overlap."""
    count = min(config.samples, -(-tokens // config.tokens))
    return [number * tokens // count for number in range(count)]


def _stretch(source: TokenSource, tokenizer: Tokenizer, first: int, count: int) -> Iterator[str]:
    tokens = source.reader.read(first, count)
    ends = np.flatnonzero(tokens == tokenizer.eod_id)
    for begin, end in zip([0, *(ends + 1)], [*ends, len(tokens)], strict=True):
        try:
            text = tokenizer.decode(tokens[begin:end].tolist())
        except (KeyError, ValueError) as error:
            raise InputError(f"{source.path}: tokens that its tokenizer does not know: {error}") from None
        if end > begin:
            yield printable(text)
        if end < len(tokens):
            yield BORDER
