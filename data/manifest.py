"""What a folder of token shards says about itself.

In: manifest.json. Out: a checked, frozen Manifest. Always: the dataset id is a digest of the content (tokens,
data type, tokenizer) and does not change when files are moved or renamed; sizes are in tokens unless named bytes.

A folder holds, for shard i: the tokens (flat little-endian integers behind ``header_bytes``; every document ends
with the EOD id), ``0000i.checksums`` (one 64-bit xxh3 per page) and ``0000i.documents`` (one record per
document, for tracing only). The manifest holds the digest of each checksum file, so that its own digest covers
every token. A page is small enough (64 KiB) to be checked whenever a sample inside it is read.
"""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.errors import InputError
from common.files import write_json
from common.ranges import MOST_TOKENS, check_filled, check_range
from common.typed import check_section, shortened, shown
from data.tokenizer import LARGEST_VOCABULARY

MANIFEST_FILE = "manifest.json"
SPLITS = ("train", "validation")
"""the folders of token shards that a preparation writes"""
FORMAT_VERSION = 1
PAGE_BYTES = 1 << 16
LARGEST_PAGE = 1 << 30
TOKEN_TYPES = ("uint16", "uint32", "int32", "int64")


@dataclass(frozen=True)
class Shard:
    """One file of tokens."""

    file: str
    """path relative to the manifest's folder, or absolute where an existing file was adopted"""
    tokens: int
    documents: int
    checksums: str
    """xxh3-128 of the shard's checksum file"""
    header_bytes: int = 0


@dataclass(frozen=True)
class Manifest:
    """A folder of token shards: one logical stream of tokens, in the order of ``shards``."""

    dtype: str
    tokens: int
    documents: int
    text_bytes: int
    """UTF-8 bytes of the documents' text; 0: not known (adopted files)"""
    largest_id: int
    eod_id: int
    vocab_size: int
    unigram_entropy: float
    """nats per token of the tokens' own distribution"""
    tokenizer: dict[str, str]
    """kind, name and fingerprint"""
    shards: list[Shard]
    preparation: dict[str, Any] = field(default_factory=dict)
    """settings and counts of what was read, kept and left out; for people"""
    page_bytes: int = PAGE_BYTES
    version: int = FORMAT_VERSION

    @property
    def item_bytes(self) -> int:
        """Bytes of one token."""
        return np.dtype(self.dtype).itemsize

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token, EOD tokens counted; 0.0: not known."""
        return self.text_bytes / self.tokens if self.tokens else 0.0

    def dataset_id(self) -> str:
        """A digest of the tokens and of what gives them meaning."""
        content = {
            "dtype": self.dtype,
            "eod_id": self.eod_id,
            "page_bytes": self.page_bytes,
            "tokenizer": self.tokenizer["fingerprint"],
            "shards": [[shard.tokens, shard.checksums] for shard in self.shards],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def shard_bytes(self, index: int) -> int:
        """The size that shard ``index``'s file must have."""
        shard = self.shards[index]
        return shard.header_bytes + shard.tokens * self.item_bytes

    def num_samples(self, sequence_length: int) -> int:
        """Samples of ``sequence_length`` + 1 tokens that overlap by one."""
        return max(0, self.tokens - 1) // sequence_length


def checksum_file(index: int) -> str:
    """Name of shard ``index``'s checksums in the manifest's folder."""
    return f"{index:05d}.checksums"


def documents_file(index: int) -> str:
    """Name of shard ``index``'s document records in the manifest's folder."""
    return f"{index:05d}.documents"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``folder``/manifest.json: the last file of a folder, whose presence says that the rest is whole."""
    write_json(folder / MANIFEST_FILE, dataclasses.asdict(manifest))


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Reads a manifest; ``where`` names it in errors.

    Raises:
        InputError: not JSON, another version, missing, unknown or contradicting entries.
    """
    try:
        values = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a manifest of token shards: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where}: not a manifest of token shards: it holds {shown(values)}")
    if values.get("version") != FORMAT_VERSION:
        raise InputError(f"{where}: format version {shown(values.get('version'))}, this program reads {FORMAT_VERSION}")
    check_section(Manifest, values, f"{where}: not a manifest of token shards")
    _check_complete(Manifest, values, where)
    for number, shard in enumerate(values["shards"]):
        _check_complete(Shard, shard, f"{where}: shards[{number}]")
    manifest = Manifest(**(values | {"shards": [Shard(**shard) for shard in values["shards"]]}))
    _check(manifest, where)
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key that is written twice")
    return values


def _check_complete(section: type, values: dict[str, Any], where: str) -> None:
    for entry in dataclasses.fields(section):
        optional = entry.default is not dataclasses.MISSING or entry.default_factory is not dataclasses.MISSING
        if entry.name not in values and not optional:
            raise InputError(f"{where}: '{entry.name}' is missing; prepare it again")


def _check(manifest: Manifest, where: str) -> None:
    if manifest.dtype not in TOKEN_TYPES:
        raise InputError(f"{where}: dtype '{shortened(manifest.dtype)}' is not one of {', '.join(TOKEN_TYPES)}")
    before = f"{where}: "
    check_range(manifest, before, "tokens", "documents", low=0, high=MOST_TOKENS)
    check_range(manifest, before, "text_bytes", low=0)
    check_range(manifest, before, "vocab_size", low=1, high=LARGEST_VOCABULARY)
    check_range(manifest, before, "eod_id", low=0, below=manifest.vocab_size)
    largest_possible = np.iinfo(manifest.dtype).max
    if not 0 <= manifest.largest_id <= largest_possible or manifest.largest_id >= manifest.vocab_size:
        raise InputError(
            f"{where}: largest_id {manifest.largest_id} does not fit dtype {manifest.dtype} and vocab_size "
            f"{manifest.vocab_size}"
        )
    check_range(manifest, before, "unigram_entropy", low=0, high=math.log(manifest.vocab_size) + 1e-6)
    check_range(manifest, before, "page_bytes", low=1, high=LARGEST_PAGE)
    if manifest.page_bytes % manifest.item_bytes:
        raise InputError(f"{where}: page_bytes {manifest.page_bytes} is no multiple of a token's {manifest.item_bytes}")
    for number, shard in enumerate(manifest.shards):
        _check_shard(shard, f"{where}: shards[{number}].")
    for name in ("tokens", "documents"):
        total, said = sum(getattr(shard, name) for shard in manifest.shards), getattr(manifest, name)
        if said != total:
            raise InputError(f"{where}: {name} is {said}, the shards hold another number, {total}; prepare it again")
    for name in ("fingerprint", "kind", "name"):
        if not manifest.tokenizer.get(name):
            raise InputError(f"{where}: the tokenizer has no {name}")


def _check_shard(shard: Shard, before: str) -> None:
    check_range(shard, before, "tokens", "documents", low=0, high=MOST_TOKENS)
    check_range(shard, before, "header_bytes", low=0, high=MOST_TOKENS)
    check_filled(shard, before, "file")
    if ".." in PurePosixPath(shard.file).parts:
        raise InputError(
            f"{before}file: must lie in the manifest's folder or be an absolute path, is {shortened(shard.file)}"
        )
    if re.fullmatch("[0-9a-f]{32}", shard.checksums) is None:
        raise InputError(f"{before}checksums: expected 32 hexadecimal digits, found '{shortened(shard.checksums)}'")
