"""Existing flat token files taken over in place: `python -m data adopt`.

In: Megatron .bin with .idx, .npy, or datatrove .ds with .ds.metadata, and the tokenizer that made them. Out: a
folder with a manifest and checksums that points at the files; the tokens stay where they are. Always: every token
is read once, so that a wrong data type, tokenizer or end-of-document id is refused here and not met in training.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.errors import InputError
from common.files import write_atomically
from common.private import check_trusted
from common.ranges import MOST_WORKERS, check_filled, check_place, check_range
from data.assemble import entropy
from data.manifest import (
    MANIFEST_FILE,
    PAGE_BYTES,
    TOKEN_TYPES,
    Manifest,
    Shard,
    checksum_file,
    documents_file,
    write_manifest,
)
from data.output_lock import only_writer
from data.shards import DOCUMENT_RECORD, page_checksums
from data.tokenizer import Tokenizer, describe, named_tokenizer
from data.workers import Report, Workers

CHUNK_BYTES = 64 * PAGE_BYTES
_MEGATRON_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float32", 7: "float64", 8: "uint16"}
_NUMPY_VERSIONS = {(1, 0), (2, 0), (3, 0)}


@dataclass(frozen=True)
class AdoptConfig:
    """Which files, and what made them."""

    input: list[str]
    """Megatron .bin (with .idx beside it), .npy, or datatrove .ds files (with .ds.metadata), in this order"""
    output: str
    """folder for the manifest and the checksums"""
    tokenizer: str
    """the tokenizer that made the tokens: a tiktoken encoding, a tokenizer.json, or a folder with a saved one"""
    eod_token: str | None = None
    """the token that ends a document, where the tokenizer's own name for it is not known"""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """processes"""

    def __post_init__(self) -> None:
        check_range(self, "--", "workers", low=1, high=MOST_WORKERS)
        check_filled(self, "--", "output", "tokenizer", "eod_token")
        check_place(self, "--", "output")


@dataclass(frozen=True)
class FlatFile:
    """Where the tokens of an existing file lie."""

    path: Path
    dtype: str
    header_bytes: int
    tokens: int


@dataclass(frozen=True)
class Scan:
    """What reading a whole file found."""

    checksums: bytes
    token_counts: NDArray[np.int64]
    """how often each id occurs, [vocab_size]"""
    document_ends: NDArray[np.int64]
    """places of the EOD tokens"""


def adopt(config: AdoptConfig) -> Manifest:
    """Writes the manifest and the checksums.

    Raises:
        InputError: a file that is not what it says, holds ids that the tokenizer lacks, or no end of document.
    """
    if not config.input:
        raise InputError("--input: names no file")
    output = Path(config.output)
    check_trusted(output, "--output", with_content=True)
    if (output / MANIFEST_FILE).exists():
        raise InputError(f"--output {output}: holds token shards already; choose another folder")
    tokenizer = named_tokenizer(config.tokenizer, config.eod_token)
    files = [describe_file(Path(name)) for name in config.input]
    seen: set[Path] = set()
    for file in files:
        place = file.path.resolve()
        if place in seen:
            raise InputError(f"--input {file.path}: named twice; its tokens would count double")
        seen.add(place)
        if file.dtype != files[0].dtype:
            raise InputError(
                f"{file.path}: {file.dtype}, but {files[0].path} is {files[0].dtype}: adopt them into two folders"
            )
    item = np.dtype(files[0].dtype).itemsize
    with Workers(config.workers) as workers:
        tasks = [(file, tokenizer.vocab_size, tokenizer.eod_id) for file in files]
        scans: list[Scan] = workers.run("reading", sum(file.tokens * item for file in files), scan_file, tasks)
    with only_writer(output):
        if (output / MANIFEST_FILE).exists():
            raise InputError(f"--output {output}: holds token shards by now; choose another folder")
        return _write(config, output, tokenizer, files, scans)


def _write(
    config: AdoptConfig, output: Path, tokenizer: Tokenizer, files: list[FlatFile], scans: list[Scan]
) -> Manifest:
    shards = [
        _write_sidecars(output, index, file, scan) for index, (file, scan) in enumerate(zip(files, scans, strict=True))
    ]
    counts = sum((scan.token_counts for scan in scans), np.zeros(tokenizer.vocab_size, np.int64))
    tokenizer.save(output)
    manifest = Manifest(
        dtype=files[0].dtype,
        tokens=sum(shard.tokens for shard in shards),
        documents=sum(shard.documents for shard in shards),
        text_bytes=0,
        largest_id=int(np.flatnonzero(counts)[-1]),
        eod_id=tokenizer.eod_id,
        vocab_size=tokenizer.vocab_size,
        unigram_entropy=entropy(counts),
        tokenizer=describe(tokenizer),
        shards=shards,
        preparation={"adopted": config.input},
    )
    write_manifest(output, manifest)
    return manifest


def describe_file(path: Path) -> FlatFile:
    """Reads what the file, or its neighbour, says about its layout, and compares it with the file's size."""
    if not path.is_file():
        raise InputError(f"--input {path}: {'not a file' if path.exists() else 'no such file'}")
    if path.suffix == ".bin":
        file = _megatron(path)
    elif path.suffix == ".npy":
        file = _numpy(path)
    elif path.suffix == ".ds":
        file = _datatrove(path)
    else:
        raise InputError(f"--input {path}: not one of Megatron's .bin, .npy or datatrove's .ds")
    if file.dtype not in TOKEN_TYPES:
        raise InputError(f"{path}: tokens of type {file.dtype}; expected one of {', '.join(TOKEN_TYPES)}")
    size, expected = path.stat().st_size, file.header_bytes + file.tokens * np.dtype(file.dtype).itemsize
    if size != expected:
        raise InputError(f"{path}: {size} bytes, but {file.tokens} tokens of {file.dtype} take {expected}")
    if not file.tokens:
        raise InputError(f"{path}: holds no tokens")
    return file


def _megatron(path: Path) -> FlatFile:
    index = path.with_suffix(".idx")
    try:
        with index.open("rb") as file:
            magic, version, code, sequences, _ = struct.unpack("<9sQBQQ", file.read(34))
            there = min(sequences, index.stat().st_size // 4)  # a spoiled number asks for more than any memory
            lengths = np.fromfile(file, "<i4", there)
    except (OSError, struct.error) as error:
        raise InputError(f"{index}: needed beside {path.name}, not readable: {error}") from None
    if magic != b"MMIDIDX\x00\x00" or version != 1 or len(lengths) != sequences or (lengths < 0).any():
        raise InputError(f"{index}: not a whole Megatron index of version 1")
    return FlatFile(path, _MEGATRON_TYPES.get(code, f"code {code}"), 0, int(lengths.sum(dtype=np.int64)))


def _numpy(path: Path) -> FlatFile:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _NUMPY_VERSIONS:
                raise InputError(f"{path}: .npy format {version[0]}.{version[1]}; read are 1.0, 2.0 and 3.0")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            header_bytes = file.tell()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from None
    except Exception as error:  # numpy gives the header to Python's own parser, which has many ways to refuse
        raise InputError(f"{path}: not a .npy file: {str(error)[:200]}") from None
    if len(shape) != 1 or dtype.byteorder == ">":
        raise InputError(f"{path}: shape {shape}, type {dtype.str}; expected one dimension of little-endian integers")
    return FlatFile(path, dtype.name, header_bytes, shape[0])


def _datatrove(path: Path) -> FlatFile:
    metadata = path.with_name(path.name + ".metadata")
    try:
        name_and_size, count = metadata.read_text(encoding="utf-8").splitlines()[:2]
        token_bytes, tokens = int(name_and_size.rpartition("|")[2]), int(count)
    except (OSError, ValueError) as error:
        raise InputError(f"{metadata}: needed beside {path.name}, not readable: {error}") from None
    return FlatFile(path, {2: "uint16", 4: "uint32"}.get(token_bytes, f"{token_bytes} bytes"), 0, tokens)


def scan_file(file: FlatFile, vocab_size: int, eod_id: int, report: Report) -> Scan:
    """Reads all tokens. Raises InputError where they cannot be the tokenizer's."""
    dtype = np.dtype(file.dtype).newbyteorder("<")
    counts = np.zeros(vocab_size, np.int64)
    checksums: list[NDArray[np.uint64]] = []
    ends: list[NDArray[np.int64]] = []
    place = 0
    with file.path.open("rb") as stream:
        stream.seek(file.header_bytes)
        while content := stream.read(CHUNK_BYTES):
            tokens = np.frombuffer(content, dtype)
            wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
            if wrong.size:
                raise InputError(
                    f"{file.path}: token {place + int(wrong[0])} is {tokens[wrong[0]]}, outside the tokenizer's "
                    f"0 to {vocab_size - 1}: another tokenizer, or not {file.dtype}"
                )
            checksums.append(page_checksums(content, PAGE_BYTES))
            counts += np.bincount(tokens, minlength=vocab_size)
            ends.append(np.flatnonzero(tokens == eod_id) + place)
            place += tokens.size
            report(len(content), tokens.size)
    if not counts[eod_id]:
        raise InputError(
            f"{file.path}: token {eod_id}, which ends a document, never occurs: another tokenizer or --eod-token, "
            "or written without ends of documents"
        )
    return Scan(np.concatenate(checksums).tobytes(), counts, np.concatenate(ends))


def _write_sidecars(output: Path, index: int, file: FlatFile, scan: Scan) -> Shard:
    starts = np.concatenate([[0], scan.document_ends + 1])
    starts = starts[starts < file.tokens]  # a file need not end with a whole document
    documents = np.zeros(len(starts), DOCUMENT_RECORD)
    documents["start"] = starts
    write_atomically(output / documents_file(index), documents.tobytes())
    write_atomically(output / checksum_file(index), scan.checksums)
    digest = xxhash.xxh3_128_hexdigest(scan.checksums)
    return Shard(str(file.path.resolve()), file.tokens, len(documents), digest, file.header_bytes)
