"""One folder of token shards, opened for reading.

In: a folder or URL. Out: its manifest and a reader that checks every page. Always: opening reads the manifest
alone, whatever the number of tokens.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.urls import without_credentials
from data.class_listing import CLASSES_FILE, parse_listing
from data.config import CacheConfig
from data.manifest import MANIFEST_FILE, SPLITS, Manifest, parse_manifest
from data.shards import TokenReader
from data.storage import LocalStorage, Storage
from data.tokenizer import (
    HUGGING_FACE_FILE,
    INFO_FILE,
    RANKS_FILE,
    HuggingFaceTokenizer,
    Tokenizer,
    load_tokenizer,
)


@dataclass(frozen=True)
class TokenSource:
    """An opened dataset."""

    path: str
    """as it was named, passwords included: to open it again, not to be shown"""
    id: str
    manifest: Manifest
    reader: TokenReader
    storage: Storage

    @property
    def name(self) -> str:
        """The path as it may be shown."""
        return without_credentials(self.path)


def folders_of(path: str) -> list[str]:
    """``path``, or, where it holds train/ and validation/ or classes of lengths, the folders of token shards in it.

    Raises:
        InputError: a folder without any.
    """
    if "://" in path or (Path(path) / MANIFEST_FILE).exists():
        return [path]
    found = _folders_in(path)
    if not found:
        raise InputError(f"{path}: holds no token shards (no {MANIFEST_FILE}, here or in {'/ and '.join(SPLITS)}/)")
    return found


def open_source(path: str, cache: CacheConfig) -> TokenSource:
    """Opens ``path``.

    Raises:
        InputError: no manifest there, or one that is not readable.
    """
    if "://" not in path and not (Path(path) / MANIFEST_FILE).exists() and (found := _folders_in(path)):
        classes = ", or weigh all with length_power" if (Path(path) / CLASSES_FILE).exists() else ""
        raise InputError(f"{path}: token shards lie in the folders in it; name one, such as {found[0]}{classes}")
    storage = _storage(path, cache)
    manifest = parse_manifest(storage.content(MANIFEST_FILE), f"{path}/{MANIFEST_FILE}")
    dataset_id = manifest.dataset_id()
    return TokenSource(path, dataset_id, manifest, TokenReader(manifest, dataset_id, storage), storage)


def small_file(path: str, name: str, cache: CacheConfig) -> bytes:
    """All bytes of the file ``name`` in the folder or at the URL ``path``.

    Raises:
        InputError: there is none.
    """
    return _storage(path, cache).content(name)


def tokenizer_of(source: TokenSource) -> Tokenizer:
    """The tokenizer that lies beside the shards.

    Raises:
        InputError: it is missing, damaged, or not the one that made the tokens.
    """
    if source.reader.is_local:
        tokenizer = load_tokenizer(Path(source.storage.location))
    else:
        with tempfile.TemporaryDirectory() as folder:
            is_hugging_face = source.manifest.tokenizer["kind"] == HuggingFaceTokenizer.kind
            for name in (INFO_FILE, HUGGING_FACE_FILE if is_hugging_face else RANKS_FILE):
                (Path(folder) / name).write_bytes(source.storage.content(name))
            tokenizer = load_tokenizer(Path(folder))
    if not tokenizer.answers_to(source.manifest.tokenizer["fingerprint"]):
        raise InputError(f"{source.path}: the tokenizer in the folder is not the one that made the tokens")
    return tokenizer


def _folders_in(path: str) -> list[str]:
    listing = Path(path) / CLASSES_FILE
    names = parse_listing(listing.read_bytes(), str(listing))["folders"] if listing.exists() else SPLITS
    folders = [f"{path.rstrip('/')}/{name}" for name in names]
    return [folder for folder in folders if (Path(folder) / MANIFEST_FILE).exists()]


def _storage(path: str, cache: CacheConfig) -> Storage:
    if "://" in path and not path.startswith("file://"):
        from data.remote import RemoteStorage

        return RemoteStorage(path, cache)
    return LocalStorage(Path(path.removeprefix("file://")))
