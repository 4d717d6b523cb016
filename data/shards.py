"""Token shards: written with a checksum per page, read with every page checked.

In: arrays of tokens; positions in the logical stream. Out: files; tokens as int64. Always: a page whose
checksum differs is never returned: it is fetched once more where it came from elsewhere, then an error names
shard, page and bytes.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.errors import InputError
from common.files import remove_unfinished, write_atomically
from data.manifest import Manifest, Shard, checksum_file, documents_file
from data.storage import Span, Storage

DOCUMENT_RECORD = np.dtype([("start", "<u8"), ("digest_high", "<u8"), ("digest_low", "<u8")])
"""One document of a shard: its first token's place in the shard, and the 128-bit digest of its text."""

CHECKSUM_TYPE = np.dtype("<u8")


def page_checksums(content: bytes | memoryview, page_bytes: int) -> NDArray[np.uint64]:
    """One xxh3-64 per page of ``content``; the last page may be short."""
    view = memoryview(content)
    pages = range(0, len(view), page_bytes)
    return np.fromiter((xxhash.xxh3_64_intdigest(view[at : at + page_bytes]) for at in pages), CHECKSUM_TYPE)


def write_shard(
    folder: Path, index: int, tokens: NDArray[np.unsignedinteger], documents: NDArray[np.void], page_bytes: int
) -> Shard:
    """Writes tokens, checksums and document records of shard ``index``; returns its entry for the manifest."""
    content = tokens.tobytes()
    checksums = page_checksums(content, page_bytes).tobytes()
    file = f"{index:05d}.tokens"
    write_atomically(folder / documents_file(index), documents.tobytes())
    write_atomically(folder / checksum_file(index), checksums)
    write_atomically(folder / file, content)
    return Shard(file, int(tokens.size), len(documents), xxhash.xxh3_128_hexdigest(checksums))


def remove_leftovers(folder: Path, shards: set[str]) -> None:
    """Removes what an attempt that was not finished has begun, or had more of; ``shards`` are those to keep."""
    remove_unfinished(folder)
    for file in folder.iterdir():
        number, _, kind = file.name.partition(".")
        if kind in ("tokens", "checksums", "documents") and number.isdecimal() and number not in shards:
            file.unlink()


@dataclass(frozen=True)
class Damage:
    """A place where a shard's bytes are not those that were written."""

    file: str
    shard: int
    page: int
    first_byte: int
    last_byte: int

    def __str__(self) -> str:
        return (
            f"{self.file}: shard {self.shard}, block {self.page} (bytes {self.first_byte} to {self.last_byte}): "
            "its checksum differs from the one taken when it was written"
        )


@dataclass(frozen=True)
class Stretch:
    """Tokens of a dataset's logical stream that are wanted together."""

    start: int
    count: int


class TokenReader:
    """Reads tokens of one dataset's logical stream, which runs on from shard to shard."""

    OPEN_CHECKSUMS = 64

    def __init__(self, manifest: Manifest, dataset_id: str, storage: Storage) -> None:
        self.manifest = manifest
        self._storage = storage
        self._ends = list(accumulate(shard.tokens for shard in manifest.shards))
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._checksums: OrderedDict[int, NDArray[np.uint64]] = OrderedDict()
        self._lock = threading.Lock()  # blocks arrive in threads
        self._bringing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._indices = {shard.file: index for index, shard in enumerate(manifest.shards)}
        sizes = {shard.file: manifest.shard_bytes(index) for index, shard in enumerate(manifest.shards)}
        sizes |= {
            documents_file(index): shard.documents * DOCUMENT_RECORD.itemsize
            for index, shard in enumerate(manifest.shards)
        }
        storage.expect(dataset_id, sizes, self._damage_on_arrival)

    def check_files(self, indices: Sequence[int] | None = None) -> None:
        """Looks at the size of these shards, or of all. Raises InputError for a missing, short or long one."""
        chosen = range(len(self.manifest.shards)) if indices is None else indices
        sizes = self._storage.sizes([self.manifest.shards[index].file for index in chosen])
        for index, size in zip(chosen, sizes, strict=True):
            expected = self.manifest.shard_bytes(index)
            if size != expected:
                kind = "truncated" if size < expected else "not the file that the manifest describes"
                path = self._path(self.manifest.shards[index].file)
                raise InputError(f"{path}: {size} bytes, expected {expected}: {kind}")

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a mounted file system."""
        return self._storage.is_local

    def prefetch(self, start: int, count: int, around: Stretch | None = None) -> None:
        """Says that these tokens will be read soon, as ``read`` will be asked for them."""
        for index, place, part in self._parts(start, count):
            begin, length = self._pages(index, place, part)
            header = self.manifest.shards[index].header_bytes
            span = self._span(index, around)
            self._storage.prefetch(self.manifest.shards[index].file, header + begin, length, span)

    def read(self, start: int, count: int, around: Stretch | None = None) -> NDArray[np.int64]:
        """Tokens ``start`` to ``start + count`` of the stream; ``around`` holds them and is fetched as one."""
        if not 0 <= start <= start + count <= self.manifest.tokens:
            raise ValueError(f"tokens {start} to {start + count} of {self.manifest.tokens}")
        tokens = np.empty(count, np.int64)
        done = 0
        for index, place, part in self._parts(start, count):
            tokens[done : done + part] = self.read_shard(index, place, part, self._span(index, around))
            done += part
        return tokens

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """The pieces (shard, first token in it, tokens) that make up a range of the stream."""
        index = bisect_right(self._ends, start)
        while count > 0:
            tokens = self.manifest.shards[index].tokens
            place = start - self._ends[index] + tokens
            part = min(count, tokens - place)
            yield index, place, part
            start, count, index = start + part, count - part, index + 1

    def _pages(self, index: int, place: int, count: int) -> tuple[int, int]:
        """The first byte behind the header, and the length, of the whole pages that hold some tokens of a shard."""
        item, page_bytes = self.manifest.item_bytes, self.manifest.page_bytes
        begin = place * item // page_bytes * page_bytes
        end = -(-(place + count) * item // page_bytes) * page_bytes
        return begin, min(end, self.manifest.shards[index].tokens * item) - begin

    def _span(self, index: int, stretch: Stretch | None) -> Span | None:
        """The whole pages of a shard that hold some tokens of ``stretch``."""
        if stretch is None:
            return None
        shard = self.manifest.shards[index]
        before = self._ends[index] - shard.tokens
        first, last = max(stretch.start, before), min(stretch.start + stretch.count, self._ends[index])
        begin, length = self._pages(index, first - before, last - first)
        return Span(shard.header_bytes + begin, length)

    def read_shard(self, index: int, place: int, count: int, around: Span | None = None) -> NDArray[np.integer]:
        """Tokens of one shard, in the type in which they are stored."""
        shard = self.manifest.shards[index]
        begin, length = self._pages(index, place, count)
        content = self._storage.read(shard.file, shard.header_bytes + begin, length, around)
        damages = self.damages(index, begin, content)
        if damages and self._storage.forget(shard.file, shard.header_bytes + begin, length, around):
            content = self._storage.read(shard.file, shard.header_bytes + begin, length, around)
            damages = self.damages(index, begin, content)
        if damages:
            raise InputError(f"{damages[0]}; restore or prepare it again")
        return np.frombuffer(content, self._dtype, count, place * self.manifest.item_bytes - begin)

    def _damage_on_arrival(self, name: str, offset: int, content: bytes) -> str | None:
        """Checks the whole pages inside a block that was fetched."""
        index = self._indices.get(name)
        if index is None:  # checksums are checked when they are read
            return None
        shard, page_bytes = self.manifest.shards[index], self.manifest.page_bytes
        first = max(0, -(-(offset - shard.header_bytes) // page_bytes)) * page_bytes
        end = offset + len(content) - shard.header_bytes
        if end < shard.tokens * self.manifest.item_bytes:
            end -= end % page_bytes
        skipped = first + shard.header_bytes - offset
        damages = self.damages(index, first, memoryview(content)[skipped : skipped + max(0, end - first)])
        return str(damages[0]) if damages else None

    def damages(self, index: int, begin: int, content: bytes | memoryview) -> list[Damage]:
        """The damaged pages of ``content``, which starts with a page, ``begin`` bytes behind the shard's header."""
        shard, page_bytes = self.manifest.shards[index], self.manifest.page_bytes
        actual = page_checksums(content, page_bytes).tolist()
        first_page = begin // page_bytes
        expected = self._expected_checksums(index)[first_page : first_page + len(actual)].tolist()
        found = []
        for page in [page for page, checksum in enumerate(actual) if checksum != expected[page]]:
            first_byte = shard.header_bytes + (first_page + page) * page_bytes
            end = min(first_byte + page_bytes, self.manifest.shard_bytes(index))
            found.append(Damage(self._path(shard.file), index, first_page + page, first_byte, end - 1))
        return found

    def _expected_checksums(self, index: int) -> NDArray[np.uint64]:
        """Shard ``index``'s checksums, themselves checked against the manifest when they are read.

        They come straight from the origin, one thread for all: an arriving block is checked while it is claimed.
        """
        with self._lock:
            bringing = self._bringing[index]
        with bringing:
            with self._lock:
                checksums = self._checksums.get(index)
                if checksums is not None:
                    self._checksums.move_to_end(index)
                    return checksums
            checksums = self._bring_checksums(index)
            with self._lock:
                self._checksums[index] = checksums
                if len(self._checksums) > self.OPEN_CHECKSUMS:
                    self._checksums.popitem(last=False)
            return checksums

    def _bring_checksums(self, index: int) -> NDArray[np.uint64]:
        """Shard ``index``'s checksums, read anew."""
        name, shard = checksum_file(index), self.manifest.shards[index]
        for _ in range(1 if self._storage.is_local else 2):
            content = self._storage.content(name)
            if xxhash.xxh3_128_hexdigest(content) == shard.checksums:
                break
        else:
            raise InputError(f"{self._path(name)}: damaged: not the checksums that the manifest names")
        pages = -(-shard.tokens * self.manifest.item_bytes // self.manifest.page_bytes)
        if len(content) != pages * CHECKSUM_TYPE.itemsize:
            raise InputError(
                f"{self._path(name)}: {len(content)} bytes of checksums, but {pages} pages; prepare it again"
            )
        return np.frombuffer(content, CHECKSUM_TYPE)

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self._storage.location}/{name}"
