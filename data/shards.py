"""Token shards: written with a checksum per page, read with every page checked.

In: arrays of tokens; positions in the logical stream. Out: files; tokens as int64. Always: a page whose
checksum differs is never returned: it is fetched once more where it came from elsewhere, then an error names
shard, page and bytes.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from common.errors import InputError
from common.files import write_atomically
from data.manifest import Manifest, Shard, checksum_file, documents_file
from data.storage import Storage

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
            "checksum differs from the one taken when it was written"
        )


class TokenReader:
    """Reads tokens of one dataset's logical stream, which runs on from shard to shard."""

    OPEN_CHECKSUMS = 64

    def __init__(self, manifest: Manifest, storage: Storage) -> None:
        self.manifest = manifest
        self._storage = storage
        self._ends = np.cumsum([shard.tokens for shard in manifest.shards], dtype=np.int64)
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._checksums: OrderedDict[int, NDArray[np.uint64]] = OrderedDict()

    def check_files(self) -> None:
        """Looks at the size of every shard. Raises InputError for a missing, short or long one."""
        for index, shard in enumerate(self.manifest.shards):
            size, expected = self._storage.size(shard.file), self.manifest.shard_bytes(index)
            if size != expected:
                kind = "truncated" if size < expected else "not the file that the manifest describes"
                raise InputError(f"{self._storage.location}/{shard.file}: {size} bytes, expected {expected}: {kind}")

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Tokens ``start`` to ``start + count`` of the stream."""
        if not 0 <= start <= start + count <= self.manifest.tokens:
            raise ValueError(f"tokens {start} to {start + count} of {self.manifest.tokens}")
        tokens = np.empty(count, np.int64)
        done = 0
        index = int(np.searchsorted(self._ends, start, side="right"))
        while done < count:
            shard_start = int(self._ends[index]) - self.manifest.shards[index].tokens
            place = start + done - shard_start
            part = min(count - done, self.manifest.shards[index].tokens - place)
            tokens[done : done + part] = self._read_shard(index, place, part)
            done += part
            index += 1
        return tokens

    def shard_of(self, token: int) -> tuple[int, int]:
        """The shard that holds token ``token`` of the stream, and the token's place in it."""
        index = int(np.searchsorted(self._ends, token, side="right"))
        return index, token - int(self._ends[index]) + self.manifest.shards[index].tokens

    def _read_shard(self, index: int, place: int, count: int) -> NDArray[np.integer]:
        item, page_bytes = self.manifest.item_bytes, self.manifest.page_bytes
        shard = self.manifest.shards[index]
        first_page = place * item // page_bytes
        last_page = ((place + count) * item - 1) // page_bytes
        begin = first_page * page_bytes
        length = min((last_page + 1) * page_bytes, shard.tokens * item) - begin
        content = self._storage.read(shard.file, shard.header_bytes + begin, length)
        damage = self._damage(index, first_page, content)
        if damage and self._storage.forget(shard.file, shard.header_bytes + begin, length):
            content = self._storage.read(shard.file, shard.header_bytes + begin, length)
            damage = self._damage(index, first_page, content)
        if damage:
            raise InputError(f"{damage}; restore or prepare it again")
        return np.frombuffer(content, self._dtype, count, place * item - begin)

    def _damage(self, index: int, first_page: int, content: bytes) -> Damage | None:
        actual = page_checksums(content, self.manifest.page_bytes)
        expected = self._expected_checksums(index)[first_page : first_page + actual.size]
        wrong = np.flatnonzero(actual != expected)
        if not wrong.size:
            return None
        page, shard = first_page + int(wrong[0]), self.manifest.shards[index]
        begin = shard.header_bytes + page * self.manifest.page_bytes
        end = min(begin + self.manifest.page_bytes, self.manifest.shard_bytes(index))
        return Damage(f"{self._storage.location}/{shard.file}", index, page, begin, end - 1)

    def _expected_checksums(self, index: int) -> NDArray[np.uint64]:
        """Shard ``index``'s checksums, themselves checked against the manifest when they are read."""
        checksums = self._checksums.get(index)
        if checksums is not None:
            self._checksums.move_to_end(index)
            return checksums
        name, shard = checksum_file(index), self.manifest.shards[index]
        pages = -(-shard.tokens * self.manifest.item_bytes // self.manifest.page_bytes)
        content = self._storage.read(name, 0, pages * CHECKSUM_TYPE.itemsize)
        if xxhash.xxh3_128_hexdigest(content) != shard.checksums:
            self._storage.forget(name, 0, len(content))
            content = self._storage.read(name, 0, len(content))
        if xxhash.xxh3_128_hexdigest(content) != shard.checksums:
            raise InputError(f"{self._storage.location}/{name}: damaged: not the checksums that the manifest names")
        checksums = np.frombuffer(content, CHECKSUM_TYPE)
        self._checksums[index] = checksums
        if len(self._checksums) > self.OPEN_CHECKSUMS:
            self._checksums.popitem(last=False)
        return checksums
