"""Text to token shards: `python -m data prepare`.

In: files, folders, hub names or `stdlib`, and a tokenizer. Out: OUTPUT/train and OUTPUT/validation, each with
manifest.json, shards and the tokenizer. Always: equal input and settings give equal shards whatever the number
of workers and the order of the files; killed at any moment, a rerun goes on with the parts that are finished;
nothing that was read vanishes without a count.
"""

import contextlib
import heapq
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from common.defaults import VOCABULARY
from common.errors import InputError
from common.files import read_json, remove_unfinished, sha256_of_json, write_json
from common.private import check_trusted
from common.ranges import LARGEST_SEED, MOST_TOKENS, MOST_WORKERS, check_filled, check_place, check_range
from data import small_bpe
from data.assemble import Assembled, assemble_shard, entropy, plan_shards
from data.corpus import OnDamage, Reading, Unit, counts_in_words, find_units, read_documents
from data.damage import shown
from data.manifest import MANIFEST_FILE, SPLITS, Manifest, write_manifest
from data.output_lock import only_writer
from data.parts import Part, PartSettings, digest_of, find_part, is_held_out, part_id, write_part
from data.shards import remove_leftovers
from data.tokenizer import INFO_FILE, Tokenizer, describe, load_tokenizer, named_tokenizer
from data.workers import Report, Workers

TRAINING_TEXT_BYTES = 48 << 20
WORK_FOLDER = "work"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class PrepareConfig:
    """Which text, which tokenizer, and where the shards go."""

    input: list[str]
    """`stdlib` (this Python's own library), files, folders, patterns, URLs, or hub names OWNER/NAME[:CONFIG[:SPLIT]];
    the kinds are jsonl, json, csv, tsv, parquet, arrow, save_to_disk, txt, md and source code, packed by gz, bz2, xz
    or zst"""
    output: str
    """folder for train/ and validation/"""
    tokenizer: str = small_bpe.NAME
    """small-bpe (trained on the input), a tiktoken encoding such as cl100k_base, a tokenizer.json, or a folder"""
    vocab_size: int = VOCABULARY
    """entries of the small-bpe, special token included"""
    eod_token: str | None = None
    """the token that ends a document, where the tokenizer's own name for it is not known"""
    text_field: str = "text"
    """column or JSON key that holds the document"""
    on_damage: OnDamage = "refuse"
    """a file that cannot be read: ends the preparation, or is left out with a count"""
    validation: float = 0.02
    """share of the documents held out, chosen by their digest"""
    seed: int = 0
    """seed of the order of documents"""
    shard_bytes: int = 1 << 30
    """about the size of one shard"""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """processes"""
    keep_parts: bool = False
    """keep the tokenized parts, so that a later call with more files tokenizes only those"""

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise InputError(f"--validation: must be at least 0 and below 1, is {self.validation}")
        check_range(self, "--", "workers", low=1, high=MOST_WORKERS)
        check_range(self, "--", "shard_bytes", low=1, high=MOST_TOKENS)
        check_range(self, "--", "vocab_size", low=1, high=2**24)
        check_range(self, "--", "seed", low=0, high=LARGEST_SEED)
        check_filled(self, "--", "output", "tokenizer", "eod_token", "text_field")
        check_place(self, "--", "output")


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Writes the shards; returns the summary that ``print_summary`` prints.

    Raises:
        InputError: no text, an unknown tokenizer, or an output folder that holds something else.
    """
    output = Path(config.output)
    for part in ("", WORK_FOLDER, *SPLITS):
        check_trusted(output / part, "--output", with_content=True)
    passed_over: Counter[str] = Counter()
    units = find_units(config.input, passed_over, output)
    request = _request(config, units)
    if (summary := _finished(output, request)) is not None:
        return summary
    work = output / WORK_FOLDER
    with _no_empty_folders(work, output), only_writer(output), Workers(config.workers) as workers:
        if (summary := _finished(output, request)) is not None:  # by the writer before us
            return summary
        work.mkdir(exist_ok=True)
        remove_unfinished(work)
        tokenizer = _tokenizer(config, units, work)
        settings = PartSettings(config.text_field, _token_type(tokenizer), config.seed, config.validation)
        parts = _tokenize(workers, units, settings, config.on_damage, tokenizer, work)
        counts = sum((part.counts for part in parts), passed_over)
        if not any(part.tokens["train"] for part in parts):
            shutil.rmtree(work)
            where = " ".join(map(shown, config.input))
            held_out = sum(part.tokens["validation"] for part in parts)
            what = "all documents fell into validation" if held_out else "no document with text"
            raise InputError(f"--input {where}: {what}; found: {counts_in_words(counts) or 'no documents'}")
        splits = {split: _assemble(workers, parts, split, tokenizer, settings, config) for split in SPLITS}
        counts["copies of another document"] = sum(values.pop("duplicates") for values in splits.values())
        inputs = [shown(entry) for entry in config.input]
        summary = {"request": request, "input": inputs, "counts": dict(counts), "splits": splits}
        write_json(output / SUMMARY_FILE, summary)
        if not config.keep_parts:
            shutil.rmtree(work)
    return summary


def _finished(output: Path, request: str) -> dict[str, Any] | None:
    """The summary of what was finished before in ``output``; None: nothing was.

    Raises:
        InputError: it was made of something else, or is no longer all there.
    """
    if not (output / SUMMARY_FILE).exists():
        return None
    summary = read_json(output / SUMMARY_FILE, "summary of a preparation")
    if not isinstance(summary, dict) or summary.get("request") != request:
        raise InputError(f"--output {output}: holds shards of other input or settings; choose another folder")
    missing = [split for split in SPLITS if not (output / split / MANIFEST_FILE).exists()]
    if missing or not {"input", "counts", "splits"} <= summary.keys():
        what = f"{' and '.join(missing)} missing" if missing else "its summary is not whole"
        raise InputError(f"--output {output}: was finished, but {what}; remove {output / SUMMARY_FILE} to do it again")
    print(f"{output} is finished already", file=sys.stderr)
    return summary


@contextlib.contextmanager
def _no_empty_folders(*folders: Path) -> Iterator[None]:
    """Where nothing was finished, nothing is left behind."""
    try:
        yield
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):  # there is something in it, or it is not there
                folder.rmdir()


def print_summary(output: str, summary: dict[str, Any]) -> None:
    """Says on standard output what was read, kept and left out, and where it lies."""
    counts = summary["counts"]
    print(f"read       {counts.get('documents read', 0):>15,} documents from {' '.join(summary['input'])}")
    for kind, count in sorted(counts.items()):
        if kind != "documents read":
            print(f"           {count:>15,} {kind}")
    for split, values in summary["splits"].items():
        print(
            f"{split:<10} {values['documents']:>15,} documents, {values['tokens']:,} tokens, "
            f"{values['text_bytes'] / max(1, values['tokens']):.2f} bytes per token, "
            f"{values['shards']} shard(s) in {output}/{split}"
        )
    if not summary["splits"]["validation"]["documents"]:
        print("validation is empty: no document was held out; more documents or a larger --validation would fill it")


def _request(config: PrepareConfig, units: list[Unit]) -> str:
    """A digest of all that the result depends on."""
    settings = asdict(config)
    for without_effect in ("output", "workers", "keep_parts", "input"):
        del settings[without_effect]
    if config.on_damage == "refuse":  # as before there was the choice
        del settings["on_damage"]
    return sha256_of_json([settings, [[unit.kind, unit.identity, unit.part] for unit in units]])


def _tokenizer(config: PrepareConfig, units: list[Unit], work: Path) -> Tokenizer:
    """The named tokenizer, or the small BPE trained on the input; kept in ``work`` for the workers and for reruns."""
    if config.tokenizer != small_bpe.NAME:
        tokenizer = named_tokenizer(config.tokenizer, config.eod_token)
        tokenizer.save(work)
        return tokenizer
    folder = work / sha256_of_json([_request(config, units)])[:16]
    if not (folder / INFO_FILE).exists():
        print(f"training a BPE of {config.vocab_size} entries", file=sys.stderr)
        texts = _training_texts(config, units)
        small_bpe.train_small_bpe(texts, config.vocab_size).save(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.save(work)
    return tokenizer


def _training_texts(config: PrepareConfig, units: list[Unit]) -> list[str]:
    """Up to ``TRAINING_TEXT_BYTES`` of the documents with the smallest digests, held-out ones left out."""
    chosen: list[tuple[int, int, str]] = []
    size = 0
    for unit in units:
        for text in read_documents(unit, Reading(config.text_field, config.on_damage), Counter()):
            high, low = digest_of(text.encode())
            if is_held_out(high, config.validation) or (chosen and size > TRAINING_TEXT_BYTES and -low < chosen[0][0]):
                continue
            heapq.heappush(chosen, (-low, high, text))
            size += len(text)
            while size - len(chosen[0][2]) > TRAINING_TEXT_BYTES:
                size -= len(heapq.heappop(chosen)[2])
    return [text for _, _, text in sorted(chosen)]


def _token_type(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def _tokenize(
    workers: Workers,
    units: list[Unit],
    settings: PartSettings,
    on_damage: OnDamage,
    tokenizer: Tokenizer,
    work: Path,
) -> list[Part]:
    """One part per unit; those that are there already are not made again."""
    ids = [part_id(unit, settings, tokenizer) for unit in units]
    missing = [unit for unit, name in zip(units, ids, strict=True) if find_part(work, name, on_damage) is None]
    if len(missing) < len(units):
        print(f"{len(units) - len(missing)} of {len(units)} parts are there already", file=sys.stderr)
    tasks = [(unit, settings, on_damage, tokenizer.fingerprint, work) for unit in missing]
    names = [shown(unit.files[0]) + (", ..." if len(unit.files) > 1 else "") for unit in missing]
    workers.run("tokenizing", sum(unit.size for unit in missing), _tokenize_unit, tasks, names)
    return [part for name in ids if (part := find_part(work, name, on_damage)) is not None]


def _tokenize_unit(
    unit: Unit, settings: PartSettings, on_damage: OnDamage, fingerprint: str, work: Path, report: Report
) -> None:
    """A worker's task of the first half."""
    write_part(unit, settings, on_damage, _cached_tokenizer(work, fingerprint), work, report)


@lru_cache(maxsize=1)
def _cached_tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    """A worker's tokenizer, loaded once; the fingerprint tells it from one that lay there before."""
    return load_tokenizer(folder)


def _assemble(
    workers: Workers,
    parts: list[Part],
    split: str,
    tokenizer: Tokenizer,
    settings: PartSettings,
    config: PrepareConfig,
) -> dict[str, int]:
    """Writes the folder of one split, its manifest last; returns what the summary says about it."""
    folder = Path(config.output) / split
    plan = plan_shards(parts, split, settings.dtype, tokenizer.vocab_size, config.shard_bytes)
    size = sum(part.tokens[split] for part in parts) * np.dtype(settings.dtype).itemsize
    tasks = [(parts, plan, number, folder) for number in range(plan.shards)]
    done: list[Assembled] = workers.run(f"writing {split}", size, assemble_shard, tasks)
    token_counts = sum((shard.token_counts for shard in done), np.zeros(tokenizer.vocab_size, np.int64))
    used = np.flatnonzero(token_counts)
    remove_leftovers(folder, {shard.shard.file.partition(".")[0] for shard in done})
    tokenizer.save(folder)
    manifest = Manifest(
        dtype=settings.dtype,
        tokens=sum(shard.shard.tokens for shard in done),
        documents=sum(shard.shard.documents for shard in done),
        text_bytes=sum(shard.text_bytes for shard in done),
        largest_id=int(used[-1]) if used.size else 0,
        eod_id=tokenizer.eod_id,
        vocab_size=tokenizer.vocab_size,
        unigram_entropy=entropy(token_counts),
        tokenizer=describe(tokenizer),
        shards=[shard.shard for shard in done],
        preparation={"input": [shown(entry) for entry in config.input], "split": split, **vars(settings)},
    )
    write_manifest(folder, manifest)
    return {
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "text_bytes": manifest.text_bytes,
        "duplicates": sum(shard.duplicates for shard in done),
        "shards": len(done),
    }
