"""Token shards made by hand: datasets whose every token is known."""

import os
from pathlib import Path

import numpy as np
import xxhash

from data.manifest import PAGE_BYTES, Manifest, Shard, checksum_file, documents_file, write_manifest
from data.shards import DOCUMENT_RECORD, page_checksums, write_shard

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


def write_sparse_dataset(folder: Path, shards: int, tokens_per_shard: int, marker: int) -> Path:
    """A dataset of zeros that takes no space: one sparse shard under many names.

    ``marker`` makes its dataset id differ from another one's.
    """
    folder.mkdir(parents=True)
    size = 4 * tokens_per_shard
    with (folder / "00000.tokens").open("wb") as file:
        file.truncate(size)
    last_page = size % PAGE_BYTES or PAGE_BYTES
    pages = -(-size // PAGE_BYTES)
    checksums = np.full(pages, page_checksums(bytes(PAGE_BYTES), PAGE_BYTES)[0])
    checksums[-1] = page_checksums(bytes(last_page), PAGE_BYTES)[0]
    (folder / checksum_file(0)).write_bytes(checksums.tobytes())
    (folder / documents_file(0)).write_bytes(b"")
    digest = xxhash.xxh3_128_hexdigest(checksums.tobytes())
    for index in range(1, shards):
        os.link(folder / "00000.tokens", folder / f"{index:05d}.tokens")
        os.link(folder / checksum_file(0), folder / checksum_file(index))
    manifest = Manifest(
        dtype="uint32",
        tokens=shards * tokens_per_shard,
        documents=0,
        text_bytes=4 * shards * tokens_per_shard,
        largest_id=0,
        eod_id=marker,
        vocab_size=100_277,
        unigram_entropy=0.0,
        tokenizer={"kind": "tiktoken", "name": "cl100k_base", "fingerprint": FINGERPRINT},
        shards=[Shard(f"{index:05d}.tokens", tokens_per_shard, 0, digest) for index in range(shards)],
    )
    write_manifest(folder, manifest)
    return folder
