"""This project's stream. Run as a module: `python -m scripts.data_peers.ours`."""

from pathlib import Path

import numpy as np

from data.config import DataConfig, SourceConfig
from data.manifest import PAGE_BYTES, Manifest, write_manifest
from data.shards import DOCUMENT_RECORD, write_shard
from data.stream import open_stream
from scripts.data_peers.measure import BATCH, NextBatch, measure

EOD = 0
VOCABULARY = 50_000


def write(
    folder: Path,
    tokens: np.ndarray,
    document_ends: np.ndarray,
    page_bytes: int = PAGE_BYTES,
    vocab_size: int = VOCABULARY,
) -> None:
    """The tokens as one shard; ``document_ends`` are the places behind each document."""
    folder.mkdir(parents=True)
    documents = np.zeros(len(document_ends), DOCUMENT_RECORD)
    documents["start"][1:] = document_ends[:-1]
    shard = write_shard(folder, 0, tokens, documents, page_bytes)
    manifest = Manifest(
        dtype=tokens.dtype.name,
        tokens=len(tokens),
        documents=len(documents),
        text_bytes=0,
        largest_id=int(tokens.max()),
        eod_id=EOD,
        vocab_size=vocab_size,
        unigram_entropy=0.0,
        tokenizer={"kind": "none", "name": "random", "fingerprint": "random tokens"},
        shards=[shard],
        page_bytes=page_bytes,
    )
    write_manifest(folder, manifest)


def open_loader(folders: list[Path], sequence_length: int, first_sample: int) -> NextBatch:
    """Samples in their global order from ``first_sample`` on."""
    stream = open_stream(DataConfig([SourceConfig(str(folder)) for folder in folders], None, sequence_length), seed=1)
    position = first_sample

    def next_batch() -> np.ndarray:
        nonlocal position
        position += BATCH
        return stream.fetch(np.arange(position - BATCH, position))

    return next_batch


if __name__ == "__main__":
    measure(open_loader)
