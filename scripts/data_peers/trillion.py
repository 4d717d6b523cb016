"""A trillion tokens that take no space, and what it takes to begin with them.

Run as a module, `python -m scripts.data_peers.trillion FOLDER ...`: one line of JSON with the time to the first batch,
its memory, the same at other steps, and the time to map a global batch of 2,048 samples. Always: the process has
imported everything and opened nothing before it measures.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from data.config import DataConfig, SourceConfig
from data.manifest import PAGE_BYTES, Manifest, Shard, checksum_file, documents_file, write_manifest
from data.shards import page_checksums
from data.stream import TokenStream, open_stream
from scripts.data_peers.measure import resident_bytes

LENGTH = 4096
GLOBAL_SIZE = 2048
MICRO_SIZE = 16
SHARD_TOKENS = 1 << 28
SHARDS = 3800
STEPS = (1, 1000, 119_000)
FINGERPRINT = "sparse tokens"


def write_trillion(folder: Path, sources: int) -> list[str]:
    """More than 1e12 tokens in so many sources of different sizes; returns their folders."""
    return [
        str(write_sparse_dataset(folder / str(number), SHARDS // sources, SHARD_TOKENS - number, marker=1))
        for number in range(sources)
    ]


def trillion_config(folders: list[str]) -> DataConfig:
    """All of them, with different weights."""
    return DataConfig([SourceConfig(path, 1.0 + number) for number, path in enumerate(folders)], sequence_length=LENGTH)


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


def first_batch(config: DataConfig, step: int) -> TokenStream:
    """Opens the data and reads a micro-batch of step ``step``."""
    stream = open_stream(config, 1)
    first = step * GLOBAL_SIZE
    assert stream.fetch(np.arange(first, first + MICRO_SIZE)).shape == (MICRO_SIZE, LENGTH + 1)
    return stream


def resume(config: DataConfig, step: int, state: dict[str, object]) -> None:
    """The same from a checkpoint's state, which is checked."""
    first_batch(config, step).check_state(state)


def milliseconds(action: Callable[[], object], bound: float = 0.0) -> float:
    """The best of up to 20 tries, fewer once it is below ``bound``: other work on the machine only adds to it."""
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        action()
        best = min(best, 1e3 * (time.perf_counter() - begin))
        if best < bound:
            break
    return best


def measure_trillion(config: DataConfig) -> dict[str, float]:
    """Milliseconds to the first batches and bytes of memory, for a trillion tokens."""
    memory = resident_bytes()
    begin = time.perf_counter()
    stream = first_batch(config, 0)
    very_first = 1e3 * (time.perf_counter() - begin)
    memory = resident_bytes() - memory
    tokens = sum(source.manifest.tokens for source in stream.sources)
    states = {step: stream.state(step * GLOBAL_SIZE) for step in STEPS}
    return {
        "tokens": tokens,
        "very_first": very_first,
        "memory": memory,
        "start": milliseconds(partial(first_batch, config, 0)),
        "resume": max(milliseconds(partial(resume, config, step, state)) for step, state in states.items()),
        "map": max(milliseconds(partial(stream.order.locate, global_batch(step))) for step in (0, 50_000)),
    }


def global_batch(step: int) -> np.ndarray:
    """The sample numbers of one step."""
    return np.arange(step * GLOBAL_SIZE, (step + 1) * GLOBAL_SIZE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    print(json.dumps(measure_trillion(trillion_config(parser.parse_args().folders))), flush=True)
