"""A node-local copy of blocks of remote files: bounded in bytes, shared by the processes of a node.

In: a block's name, and a way to fetch it. Out: bytes of the block. Always: a block is there whole or not at all;
one process fetches it while the others wait; nothing has to be cleaned up after a process was killed.

Blocks are spread over folders ("shelves") by a hash of their names; each shelf has its own equal share of the
bound. Whoever changes a shelf holds the kernel's lock on the folder itself, which ends with the process: there
is no lock file to leave behind, and an unfinished file found under the lock is rubbish by definition.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from common.files import TEMPORARY_SUFFIX

MOST_SHELVES = 256
BLOCKS_PER_SHELF = 32


class BlockCache:
    """Blocks of up to ``block_bytes`` in ``folder``, ``capacity`` bytes at most in all."""

    def __init__(self, folder: Path, capacity: int, block_bytes: int) -> None:
        shelves = 1
        while shelves < MOST_SHELVES and 2 * shelves * BLOCKS_PER_SHELF * block_bytes <= capacity:
            shelves *= 2
        self._shelves, self._shelf_capacity = shelves, capacity // shelves
        self._folder = folder / f"{shelves}x{self._shelf_capacity}"  # another bound is another cache

    def read(self, block: str, size: int, offset: int, length: int, fetch: Callable[[], bytes]) -> bytes:
        """``length`` bytes from ``offset`` of ``block``, which has ``size`` bytes; ``fetch`` brings it when missing."""
        path = self._path(block)
        content = _read_kept(path, size, offset, length)
        if content is not None:
            return content
        with self._locked(path.parent):
            content = _read_kept(path, size, offset, length)  # another process may have been faster
            if content is None:
                whole = fetch()
                self._keep(path, whole)
                content = whole[offset : offset + length]
        return content

    def holds(self, block: str, size: int) -> bool:
        """Whether ``block`` is there."""
        return _read_kept(self._path(block), size, 0, 0) is not None

    def drop(self, block: str) -> None:
        """Removes ``block``."""
        self._path(block).unlink(missing_ok=True)

    def _path(self, block: str) -> Path:
        digest = hashlib.blake2b(block.encode(), digest_size=16).hexdigest()
        return self._folder / f"{int(digest[:8], 16) % self._shelves:02x}" / digest

    @contextlib.contextmanager
    def _locked(self, shelf: Path) -> Iterator[None]:
        try:
            shelf.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(shelf, os.O_RDONLY)
        except OSError as error:
            raise _unusable(shelf, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _keep(self, path: Path, content: bytes) -> None:
        """Puts the block on its shelf, whose lock the caller holds, after making room."""
        for leftover in path.parent.glob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
        _make_room(path.parent, self._shelf_capacity - len(content))
        try:
            _write(path, content)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise _unusable(path.parent, error) from None
            _make_room(path.parent, 0)  # the disk is smaller than the bound says: use what this shelf holds
            try:
                _write(path, content)
            except OSError as second:
                raise _unusable(path.parent, second) from None


def _read_kept(path: Path, size: int, offset: int, length: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path.parent, error) from None
    try:
        if os.fstat(descriptor).st_size != size:
            path.unlink(missing_ok=True)
            return None
        os.utime(descriptor)  # the shelf gives up first what was not used for longest
        content = os.pread(descriptor, length, offset)
        return content if len(content) == length else None
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(content)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _make_room(shelf: Path, allowed: int) -> None:
    """Removes the blocks used longest ago until at most ``allowed`` bytes are left."""
    kept = []
    for entry in os.scandir(shelf):
        with contextlib.suppress(FileNotFoundError):  # dropped by another process
            status = entry.stat()
            kept.append((status.st_mtime_ns, status.st_size, entry.path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= allowed:
            break
        Path(path).unlink(missing_ok=True)
        total -= size


def _unusable(folder: Path, error: OSError) -> InputError:
    free = ""
    with contextlib.suppress(OSError):
        status = os.statvfs(folder)
        free = f" ({status.f_bavail * status.f_frsize:,} bytes free there)"
    return InputError(
        f"data.cache.folder: cannot keep a block in {folder}: {error.strerror}{free}; free some space, lower "
        "data.cache.gigabytes or name another folder"
    )
