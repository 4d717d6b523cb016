"""Token shards made by hand: datasets whose every token is known."""

from pathlib import Path

import numpy as np

from data.manifest import PAGE_BYTES, Manifest, write_manifest
from data.shards import DOCUMENT_RECORD, write_shard

EOD = 0
FINGERPRINT = "f" * 64


def write_dataset(
    folder: Path, shards: list[np.ndarray], *, fingerprint: str = FINGERPRINT, eod_id: int = EOD, vocab_size: int = 1000
) -> Path:
    """Writes ``shards`` (arrays of one token type) as a dataset; every EOD ends a document."""
    folder.mkdir(parents=True)
    entries = []
    for index, tokens in enumerate(shards):
        starts = np.concatenate([[0], np.flatnonzero(tokens == eod_id) + 1])
        documents = np.zeros(np.count_nonzero(starts < tokens.size), DOCUMENT_RECORD)
        documents["start"] = starts[starts < tokens.size]
        entries.append(write_shard(folder, index, tokens, documents, PAGE_BYTES))
    manifest = Manifest(
        dtype=shards[0].dtype.name,
        tokens=sum(entry.tokens for entry in entries),
        documents=sum(entry.documents for entry in entries),
        text_bytes=4 * sum(entry.tokens for entry in entries),
        largest_id=max(int(tokens.max()) for tokens in shards),
        eod_id=eod_id,
        vocab_size=vocab_size,
        unigram_entropy=1.0,
        tokenizer={"kind": "tiktoken", "name": "by hand", "fingerprint": fingerprint},
        shards=entries,
    )
    write_manifest(folder, manifest)
    return folder


def random_tokens(count: int, seed: int, vocab_size: int = 1000, dtype: str = "uint16") -> np.ndarray:
    """``count`` tokens; about one in fifty ends a document."""
    random = np.random.default_rng(seed)
    tokens = random.integers(1, vocab_size, count).astype(dtype)
    tokens[random.random(count) < 0.02] = EOD
    return tokens
