"""A node-local copy of blocks of remote files: bounded in bytes, shared by the processes of a node.

In: a block's name, and a way to fetch it. Out: bytes of the block. Always: a block is there whole or not at all;
one process fetches it while the others wait; nothing has to be cleaned up after a process was killed. A disk that
fails or is full never keeps a block from its reader: it is fetched, and not kept.

Blocks are spread over folders ("shelves") by a hash of their names; each shelf has its own equal share of the
bound. Whoever brings a block holds the kernel's lock on its unfinished file, and whoever writes into a shelf the
folder's; a lock ends with its process: an unfinished file that nobody holds is rubbish by definition. Blocks of one
shelf are fetched side by side, and written one after the other. The folder is this user's alone (common/private.py),
and its files are reached by descriptors without following a link: what another user has planted is neither read,
written nor deleted.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from common.files import TEMPORARY_SUFFIX
from common.private import open_inside, open_private, user_cache_folder

SETTING = "data.cache.folder"

MOST_SHELVES = 256
BLOCKS_PER_SHELF = 32


class BlockCache:
    """Blocks of up to ``block_bytes`` in ``folder``, ``capacity`` bytes at most in all; opened at the first use."""

    def __init__(self, folder: Path | None, capacity: int, block_bytes: int) -> None:
        """``folder`` None: a folder of this program in the user's cache folder."""
        shelves = 1
        while shelves < MOST_SHELVES and 2 * shelves * BLOCKS_PER_SHELF * block_bytes <= capacity:
            shelves *= 2
        self._shelves, self._shelf_capacity = shelves, capacity // shelves
        self._named, self._folder = folder, folder or Path()
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._has_warned = False
        self._bound = f"{shelves}x{self._shelf_capacity}"  # another bound is another cache

    def read(self, block: str, size: int, offset: int, length: int, fetch: Callable[[], bytes]) -> bytes:
        """``length`` bytes from ``offset`` of ``block``, which has ``size`` bytes; ``fetch`` brings it when missing."""
        whole: bytes | None = None
        with self._forgiving(), self._shelf_of(block) as (shelf, name):
            content = shelf.read(name, size, offset, length)
            if content is not None:
                return content
            with shelf.claimed(name):
                content = shelf.read(name, size, offset, length)  # another process may have been faster
                if content is not None:
                    return content
                whole = fetch()
                with shelf.locked():
                    shelf.keep(name, whole, self._shelf_capacity)
        if whole is None:
            whole = fetch()
        return whole[offset : offset + length]

    def holds(self, block: str, size: int) -> bool:
        """Whether ``block`` is there."""
        with self._forgiving(), self._shelf_of(block) as (shelf, name):
            return shelf.read(name, size, 0, 0) is not None
        return False

    def drop(self, block: str) -> None:
        """Removes ``block``."""
        with self._forgiving(), self._shelf_of(block) as (shelf, name):
            shelf.remove(name)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """What the disk refuses within the block is told once; that someone clears the folder away is no fault."""
        try:
            yield
        except _Unusable as error:
            if not error.is_gone and not self._has_warned:
                self._has_warned = True
                logging.getLogger(__name__).error("%s", str(error))

    @contextlib.contextmanager
    def _shelf_of(self, block: str) -> Iterator["tuple[_Shelf, str]"]:
        """The shelf that ``block`` belongs to, and the block's name there."""
        digest = hashlib.blake2b(block.encode(), digest_size=16).hexdigest()
        name = f"{int(digest[:8], 16) % self._shelves:02x}"
        try:
            try:
                descriptor = open_inside(self._opened(), name, self._folder / name, SETTING)
            except FileNotFoundError:  # someone cleared the folder away; another thread may still use its descriptor
                self._descriptor = None
                descriptor = open_inside(self._opened(), name, self._folder / name, SETTING)
        except OSError as error:
            raise _Unusable(self._folder, error) from None
        try:
            yield _Shelf(descriptor, self._folder / name), digest
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        """The folder's descriptor, which threads and forks share."""
        with self._opening:
            if self._descriptor is None:
                folder = self._named or user_cache_folder(SETTING) / "tokens"
                outer, self._folder = open_private(folder, SETTING), folder / self._bound
                try:
                    self._descriptor = open_inside(outer, self._bound, self._folder, SETTING)
                finally:
                    os.close(outer)
            return self._descriptor

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class _Shelf:
    """One folder of blocks, reached by its descriptor."""

    def __init__(self, descriptor: int, folder: Path) -> None:
        self._descriptor, self._folder = descriptor, folder

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Only one process brings a block: it holds the lock on the block's unfinished file."""
        unfinished = name + TEMPORARY_SUFFIX
        try:
            while (file := self._hold(unfinished, os.O_CREAT, fcntl.LOCK_EX)) is None:
                pass  # whoever had it has finished, or cleared it away
        except OSError as error:
            raise _Unusable(self._folder, error) from None
        try:
            yield
        finally:
            try:
                if self._is_at(file, unfinished):
                    self.remove(unfinished)
            finally:
                os.close(file)

    def _hold(self, unfinished: str, create: int, lock: int) -> int | None:
        """An open file whose lock is this process's; None: there is another one by now, or none."""
        try:
            file = os.open(unfinished, os.O_RDWR | create | _OURS, 0o600, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            self.remove(unfinished)  # a link, from a time when others could write here
            return None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                self.remove(unfinished)
            fcntl.flock(file, lock)
            held = self._is_at(file, unfinished)
        except BaseException:
            os.close(file)
            raise
        if not held:
            os.close(file)
        return file if held else None

    def _is_at(self, file: int, name: str) -> bool:
        """Whether an open file is the one of this name."""
        try:
            there = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(file))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process writes into a shelf."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise _Unusable(self._folder, error) from None
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def read(self, name: str, size: int, offset: int, length: int) -> bytes | None:
        """``length`` bytes from ``offset`` of a block that has ``size`` bytes; None: it is not there."""
        try:
            file = os.open(name, os.O_RDONLY | _OURS, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise _Unusable(self._folder, error) from None
            self.remove(name)  # a link, from a time when others could write here
            return None
        try:
            status = os.fstat(file)
            if status.st_size != size or not stat.S_ISREG(status.st_mode):
                self.remove(name)
                return None
            os.utime(file)  # the shelf gives up first what was not used for longest
            content = os.pread(file, length, offset)
            return content if len(content) == length else None
        except OSError as error:
            raise _Unusable(self._folder, error) from None
        finally:
            os.close(file)

    def keep(self, name: str, content: bytes, capacity: int) -> None:
        """Writes a claimed block, under the shelf's lock, after making room for it; one that never fits is not kept."""
        if len(content) > capacity:
            return
        try:
            for entry in self._entries():
                if entry.name.endswith(TEMPORARY_SUFFIX) and entry.name != name + TEMPORARY_SUFFIX:
                    self._clear_away(entry.name)
            self._make_room(capacity - len(content))
            try:
                self.write(name, content)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._make_room(0)  # the disk, or this user's part of it, is smaller than the bound: use this shelf's
                self.write(name, content)
        except OSError as error:
            raise _Unusable(self._folder, error) from None

    def _clear_away(self, unfinished: str) -> None:
        """Removes an unfinished file that no process holds."""
        try:
            file = self._hold(unfinished, 0, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            return
        if file is not None:
            self.remove(unfinished)
            os.close(file)

    def write(self, name: str, content: bytes) -> None:
        """The claimed block appears whole or not at all."""
        temporary, here = name + TEMPORARY_SUFFIX, self._descriptor
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _OURS, 0o600, dir_fd=here)
            with os.fdopen(file, "wb") as output:
                output.write(content)
            os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
        except OSError:
            self.remove(temporary)
            raise

    def remove(self, name: str) -> None:
        """Removes a file or link of this folder, never what a link leads to."""
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _Unusable(self._folder, error) from None

    def _entries(self) -> list[os.DirEntry[str]]:
        with os.scandir(self._descriptor) as entries:
            return list(entries)

    def _make_room(self, allowed: int) -> None:
        """Removes the blocks used longest ago until at most ``allowed`` bytes are left."""
        kept = []
        for entry in self._entries():
            if entry.name.endswith(TEMPORARY_SUFFIX):  # empty, and held by whoever fetches it
                continue
            with contextlib.suppress(FileNotFoundError):  # dropped by another process
                status = entry.stat(follow_symlinks=False)
                kept.append((status.st_mtime_ns, status.st_size, entry.name))
        total = sum(size for _, size, _ in kept)
        for _, size, name in sorted(kept):
            if total <= allowed:
                break
            self.remove(name)
            total -= size


_OURS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""no link is followed, and a pipe does not make anyone wait"""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class _Unusable(Exception):
    """The disk has refused something of the cache."""

    def __init__(self, folder: Path, error: OSError) -> None:
        free = ""
        with contextlib.suppress(OSError):
            status = os.statvfs(folder)
            free = f" ({status.f_bavail * status.f_frsize:,} bytes free there)"
        super().__init__(
            f"{SETTING}: cannot keep a block in {folder}: {error.strerror}{free}; going on without: what is not kept "
            "is fetched again; free some space, lower data.cache.gigabytes or name another folder"
        )
        self.is_gone = error.errno == errno.ENOENT
