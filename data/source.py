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
    storage: Storage


def open_source(path: str, cache: CacheConfig) -> TokenSource:
    """Opens ``path``.

    Raises:
        InputError: no manifest there, or one that is not readable.
    """
    storage = _storage(path, cache)
    manifest = parse_manifest(storage.content(MANIFEST_FILE), f"{path}/{MANIFEST_FILE}")
    dataset_id = manifest.dataset_id()
    return TokenSource(path, dataset_id, manifest, TokenReader(manifest, dataset_id, storage), storage)


def _storage(path: str, cache: CacheConfig) -> Storage:
    if "://" in path and not path.startswith("file://"):
        from data.remote import RemoteStorage

        return RemoteStorage(path, cache)
    return LocalStorage(Path(path.removeprefix("file://")))
