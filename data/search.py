"""Where a snippet of text stands in token shards.

In: a dataset and a text. Out: token positions. Always: reads the shards once, as bytes, in parallel processes; a
match is confirmed by decoding.
"""

from collections.abc import Callable

import numpy as np

from common.errors import InputError
from data.config import CacheConfig
from data.source import TokenSource, open_source, tokenizer_of
from data.workers import Report, Workers

CHUNK_TOKENS = 1 << 20
SHORTEST = 3
MARGIN = 64


def find_text(source: TokenSource, text: str, most: int, cache: CacheConfig, workers: int) -> list[tuple[int, int]]:
    """Ranges of tokens of the stream, (first, last) inclusive, whose text holds ``text``; up to ``most`` of them.

    Raises:
        InputError: the text has too few words to look for.
    """
    inner = tokenizer_of(source).inner_ids(text)
    if len(inner) < SHORTEST:
        raise InputError(
            f"--text {text!r}: too short to look for: the words between the first and the last make "
            f"{len(inner)} tokens, at least {SHORTEST} are needed"
        )
    tasks = [(source.path, cache, index, text, inner, most) for index in range(len(source.manifest.shards))]
    size = source.manifest.tokens * source.manifest.item_bytes
    with Workers(workers) as pool:
        found = pool.run("searching", size, search_shard, tasks)
    return [span for spans in found for span in spans][:most]


def search_shard(
    path: str, cache: CacheConfig, index: int, text: str, inner: list[int], most: int, report: Report
) -> list[tuple[int, int]]:
    """The matches in one shard."""
    source = open_source(path, cache)
    manifest, tokenizer = source.manifest, tokenizer_of(source)
    tokens, item = manifest.shards[index].tokens, manifest.item_bytes
    first_token = sum(shard.tokens for shard in manifest.shards[:index])
    pattern = np.array(inner, np.dtype(manifest.dtype).newbyteorder("<")).tobytes()
    matches: list[tuple[int, int]] = []
    for start in range(0, tokens, CHUNK_TOKENS):
        count = min(CHUNK_TOKENS + len(inner) - 1, tokens - start)
        content = source.reader.read_shard(index, start, count).tobytes()
        at = content.find(pattern)
        while at >= 0 and len(matches) < most:
            place = first_token + start + at // item
            if at % item == 0 and text in _decoded(source, tokenizer.decode, place, len(inner)):
                matches.append((place, place + len(inner) - 1))
            at = content.find(pattern, at + 1)
        report(count * item, count)
    return matches


def _decoded(source: TokenSource, decode: Callable[[list[int]], str], place: int, length: int) -> str:
    """The text around a match, its first and last word included."""
    begin, end = max(0, place - MARGIN), min(source.manifest.tokens, place + length + MARGIN)
    return decode(source.reader.read(begin, end - begin).tolist())
