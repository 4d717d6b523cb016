"""Bytes of named files in one folder.

In: a file's name, an offset and a length. Out: exactly that many bytes, or an error: never fewer.
Always: bounded open files; a name may be an absolute path (adopted files).
"""

import errno
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

OPEN_FILES = 128


ArrivalCheck = Callable[[str, int, bytes], str | None]
"""Called with (file, offset, content) of what was fetched from afar; returns what is wrong with it, or None."""


@dataclass(frozen=True)
class Span:
    """A range of bytes of a file."""

    offset: int
    length: int


class Storage(ABC):
    """Where the files of a dataset lie."""

    location: str
    is_local: bool
    fetch_seconds: float | None = None
    """how long a fetch from afar takes; None: not measured"""
    fetch_rate: float | None = None
    """bytes per second that come from afar; None: not measured"""
    room: int = 0
    """how many fetches may begin"""

    @abstractmethod
    def expect(self, dataset: str, sizes: dict[str, int], check: ArrivalCheck) -> None:
        """Announces the dataset's id, the bytes of its files, and how to check what arrives."""

    @abstractmethod
    def content(self, name: str) -> bytes:
        """All bytes of a small file. Raises InputError where there is none."""

    @abstractmethod
    def sizes(self, names: list[str]) -> list[int]:
        """Bytes of the files. Raises InputError where there is none."""

    @abstractmethod
    def read(self, name: str, offset: int, length: int, around: Span | None = None) -> bytes:
        """``length`` bytes from ``offset``. Raises InputError where the file ends before.

        ``around`` are bytes that hold them and are wanted together: what is fetched from afar, and kept, as one.
        """

    @abstractmethod
    def read_origin(self, name: str, offset: int, length: int) -> bytes:
        """As ``read``, past any local copy."""

    @abstractmethod
    def prefetch(self, name: str, offset: int, length: int, around: Span | None = None) -> None:
        """Says that these bytes will be read soon."""

    @abstractmethod
    def forget(self, name: str, offset: int, length: int, around: Span | None = None) -> bool:
        """Drops local copies of these bytes; False: there are none, reading again brings the same."""


class LocalStorage(Storage):
    """A folder on a mounted file system, read with pread."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self.location = str(folder)
        self._folder = folder
        self._descriptors: OrderedDict[str, int] = OrderedDict()

    def expect(self, dataset: str, sizes: dict[str, int], check: ArrivalCheck) -> None:
        """Nothing arrives here: what is read is checked when it is read."""

    def content(self, name: str) -> bytes:
        """All bytes of a small file."""
        return self.read(name, 0, self.sizes([name])[0])

    def sizes(self, names: list[str]) -> list[int]:
        """Bytes of the files."""
        found = []
        for name in names:
            try:
                found.append((self._folder / name).stat().st_size)
            except OSError as error:
                raise self._unreadable(name, error) from None
        return found

    def read(self, name: str, offset: int, length: int, around: Span | None = None) -> bytes:
        """``length`` bytes from ``offset``."""
        descriptor = self._open(name)
        try:
            content = os.pread(descriptor, length, offset)
            while len(content) < length:  # a signal, or a file system that returns less than asked
                more = os.pread(descriptor, length - len(content), offset + len(content))
                if not more:
                    raise InputError(
                        f"{self._folder / name}: ends at byte {offset + len(content)}, expected {offset + length} or "
                        "more: truncated; restore or prepare it again"
                    )
                content += more
        except OSError as error:
            raise self._unreadable(name, error) from None
        return content

    def read_origin(self, name: str, offset: int, length: int) -> bytes:
        """The same: there are no copies."""
        return self.read(name, offset, length)

    def prefetch(self, name: str, offset: int, length: int, around: Span | None = None) -> None:
        """The operating system reads ahead by itself."""

    def forget(self, name: str, offset: int, length: int, around: Span | None = None) -> bool:
        """False: a local file is read where it lies, and there is no copy to drop."""
        return False

    def _open(self, name: str) -> int:
        descriptor = self._descriptors.get(name)
        if descriptor is not None:
            self._descriptors.move_to_end(name)
            return descriptor
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY)
        except OSError as error:
            raise self._unreadable(name, error) from None
        self._descriptors[name] = descriptor
        if len(self._descriptors) > OPEN_FILES:
            _, oldest = self._descriptors.popitem(last=False)
            os.close(oldest)
        return descriptor

    def _unreadable(self, name: str, error: OSError) -> InputError:
        if error.errno == errno.ENOENT:
            return InputError(f"{self._folder / name}: no such file")
        return InputError(f"{self._folder / name}: not readable: {error.strerror}")

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
