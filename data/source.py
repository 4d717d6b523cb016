"""One folder of token shards, opened for reading.

In: a folder or URL. Out: its manifest and a reader that checks every page. Always: opening reads the manifest
alone, whatever the number of tokens.
"""

from dataclasses import dataclass
from pathlib import Path

from data.config import CacheConfig
from data.manifest import MANIFEST_FILE, Manifest, parse_manifest
from data.shards import TokenReader
from data.storage import LocalStorage, Storage


@dataclass(frozen=True)
class TokenSource:
    """An opened dataset."""

    path: str
    id: str
    manifest: Manifest
    reader: TokenReader


def open_source(path: str, cache: CacheConfig) -> TokenSource:
    """Opens ``path``.

    Raises:
        InputError: no manifest there, or one that is not readable.
    """
    storage = _storage(path, cache)
    content = storage.read(MANIFEST_FILE, 0, storage.size(MANIFEST_FILE))
    manifest = parse_manifest(content, f"{path}/{MANIFEST_FILE}")
    return TokenSource(path, manifest.dataset_id(), manifest, TokenReader(manifest, storage))


def _storage(path: str, cache: CacheConfig) -> Storage:
    return LocalStorage(Path(path))
