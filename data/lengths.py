"""Token shards sorted into classes of document lengths: `python -m data lengths`.

In: a folder of token shards. Out: OUTPUT/under_4096, OUTPUT/from_4096, ...: token shards of the documents of each
length, which `data.train[].length_power` weighs. Always: every document is in one class, whole and in the corpus's
order; nothing is tokenized again; equal settings give equal shards, whatever the number of workers; memory is bounded
by a shard, whatever the number of documents.

A first pass over the lists of documents counts tokens by class, a second copies them. Of what `prepare` wrote, any
beginning is a random part of the corpus, so that a long stage needs a few times its tokens only (``tokens``).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.files import sha256_of_json
from common.private import check_trusted
from common.ranges import LONGEST_SEQUENCE, MOST_TOKENS, MOST_WORKERS, check_filled, check_place, check_range
from data.assemble import entropy
from data.class_listing import CLASSES_FILE, class_folders, parse_listing, write_listing
from data.config import CacheConfig
from data.length_pieces import Piece, Written, count_piece, pieces_of, write_class
from data.manifest import Manifest, write_manifest
from data.output_lock import only_writer
from data.shards import remove_leftovers
from data.source import TokenSource, open_source, tokenizer_of
from data.workers import Workers


@dataclass(frozen=True)
class LengthsConfig:
    """Which shards, and which lengths are told apart."""

    input: str
    """folder or URL of token shards"""
    output: str
    """folder for the folders of the classes"""
    classes: list[int]
    """tokens, the one that ends it included, from which on a document is of the next class, as [4096, 16384, 65536]"""
    tokens: int | None = None
    """only documents that begin in the first so many tokens; default: all"""
    shard_bytes: int = 1 << 30
    """about the size of one shard"""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """processes"""
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        check_filled(self, "--", "input", "output")
        check_place(self, "--", "output")
        check_range(self, "--", "classes", low=2, high=LONGEST_SEQUENCE)
        check_range(self, "--", "tokens", low=1, high=MOST_TOKENS)
        check_range(self, "--", "shard_bytes", low=1, high=MOST_TOKENS)
        check_range(self, "--", "workers", low=1, high=MOST_WORKERS)
        if not self.classes or sorted(set(self.classes)) != self.classes:
            raise InputError(f"--classes: must be one or more rising numbers of tokens, are {self.classes}")


def sort_by_length(config: LengthsConfig) -> dict[str, Manifest]:
    """Writes the classes that have documents; returns their manifests by folder.

    Raises:
        InputError: no token shards there, damaged ones, or an output folder that holds something else.
    """
    output = Path(config.output)
    check_trusted(output, "--output", with_content=True)
    source = open_source(config.input, config.cache)
    pieces = list(pieces_of(source, config.tokens))
    if not pieces:
        raise InputError(f"--input {config.input}: holds no tokens, so there is nothing to sort; name another dataset")
    request = sha256_of_json([source.id, config.classes, config.tokens, config.shard_bytes])
    with only_writer(output), Workers(config.workers) as workers:
        if (output / CLASSES_FILE).exists():
            return _finished(output, request)
        tokens_PC = _count(workers, config, pieces)
        tokenizer = tokenizer_of(source)
        made: dict[str, Manifest] = {}
        for number, name in enumerate(class_folders(config.classes)):
            if tokens_PC[:, number].any():
                written = _copy(workers, config, source, number, pieces, tokens_PC[:, number], output / name)
                made[name] = _manifest(source, config, name, written)
                tokenizer.save(output / name)
                write_manifest(output / name, made[name])
        tokenizer.save(output)  # where a run's tokenizer is looked for: beside its training data
        write_listing(output, request, list(made))
    return made


def _finished(output: Path, request: str) -> dict[str, Manifest]:
    """What was made before. Raises InputError where that was of something else."""
    listing = parse_listing((output / CLASSES_FILE).read_bytes(), str(output / CLASSES_FILE))
    if listing.get("request") != request:
        raise InputError(f"--output {output}: holds classes of other input or settings; choose another folder")
    return {name: open_source(str(output / name), CacheConfig()).manifest for name in listing["folders"]}


def _count(workers: Workers, config: LengthsConfig, pieces: list[Piece]) -> NDArray[np.int64]:
    """The tokens of each piece and class, [pieces, classes]."""
    tasks = [(config.input, config.cache, piece, tuple(config.classes)) for piece in pieces]
    size = sum(piece.last - piece.first for piece in pieces)
    return np.stack(workers.run("counting lengths", size, count_piece, tasks))


def _copy(
    workers: Workers,
    config: LengthsConfig,
    source: TokenSource,
    number: int,
    pieces: list[Piece],
    tokens_P: NDArray[np.int64],
    folder: Path,
) -> list[Written]:
    """Writes the shards of one class, each of the documents of neighbouring pieces."""
    folder.mkdir(exist_ok=True)
    item = source.manifest.item_bytes
    shard_of = (np.cumsum(tokens_P) - tokens_P) * item // config.shard_bytes
    chosen = np.flatnonzero(tokens_P)
    groups = np.split(chosen, np.flatnonzero(np.diff(shard_of[chosen])) + 1)
    tasks = [
        (config.input, config.cache, [pieces[place] for place in group], tuple(config.classes), number, index, folder)
        for index, group in enumerate(groups)
    ]
    written: list[Written] = workers.run(f"writing {folder.name}", int(tokens_P.sum()) * item, write_class, tasks)
    remove_leftovers(folder, {entry.shard.file.partition(".")[0] for entry in written})
    return written


def _manifest(source: TokenSource, config: LengthsConfig, name: str, written: list[Written]) -> Manifest:
    counts = sum((entry.token_counts for entry in written), np.zeros(source.manifest.vocab_size, np.int64))
    shards = [entry.shard for entry in written]
    return Manifest(
        dtype=source.manifest.dtype,
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        text_bytes=0,
        largest_id=int(np.flatnonzero(counts)[-1]),
        eod_id=source.manifest.eod_id,
        vocab_size=source.manifest.vocab_size,
        unigram_entropy=entropy(counts),
        tokenizer=source.manifest.tokenizer,
        shards=shards,
        preparation={"lengths of": source.name, "id": source.id, "class": name, "classes": config.classes},
    )


def print_classes(config: LengthsConfig, made: dict[str, Manifest]) -> None:
    """A line for each class."""
    total = sum(manifest.tokens for manifest in made.values())
    for name, manifest in made.items():
        print(
            f"{name:<16} {manifest.documents:>15,} documents of {manifest.tokens / manifest.documents:>11,.0f} tokens "
            f"on average, {manifest.tokens:>17,} tokens ({manifest.tokens / total:.1%}) in {config.output}/{name}"
        )
