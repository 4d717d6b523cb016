"""Files on anything that fsspec reads, through the node-local block cache.

In: a URL, names of files in it, offsets. Out: exactly the bytes asked for, or an error. Always: only whole blocks
travel, those of a grid or those that the reader names; a fetch that fails, stalls or returns another number of bytes
is tried again with growing waits; a block is checked when it arrives, fetched once more if it is wrong, and refused by
name if it is wrong again.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.errors import InputError
from common.remote_files import file_in, open_remote, refusal_in
from common.urls import without_credentials
from data.cache import BlockCache
from data.config import CacheConfig
from data.fetch_meter import FetchMeter
from data.storage import ArrivalCheck, Span, Storage

Result = TypeVar("Result")
LONGEST_PAUSE = 60.0
"""seconds between two tries"""
QUIET_TRIES = 4
"""so many failures of one fetch in a row and more are shown on the console"""


class RemoteStorage(Storage):
    """The folder behind ``url``."""

    is_local = False

    def __init__(self, url: str, config: CacheConfig) -> None:
        self.location = without_credentials(url).rstrip("/")
        self._config = config
        self._files, self._root = open_remote(url.rstrip("/"))
        self._dataset, self._sizes = "", dict[str, int]()
        self._check: ArrivalCheck = lambda name, offset, content: None
        self._cache = BlockCache(
            Path(config.folder) if config.folder else None, int(config.gigabytes * 1e9), config.block_bytes
        )
        self._pool = ThreadPoolExecutor(config.connections, thread_name_prefix="fetch")
        self._coming: dict[str, Future[None]] = {}
        self._meter = FetchMeter()
        self._lock = threading.Lock()

    @property
    def fetch_seconds(self) -> float | None:  # type: ignore[override]
        """As measured of late."""
        return self._meter.seconds

    @property
    def fetch_rate(self) -> float | None:  # type: ignore[override]
        """As measured of late."""
        return self._meter.rate

    @property
    def room(self) -> int:  # type: ignore[override]
        """As many as there are connections may wait for one."""
        with self._lock:
            return 2 * self._config.connections - sum(not fetch.done() for fetch in self._coming.values())

    def expect(self, dataset: str, sizes: dict[str, int], check: ArrivalCheck) -> None:
        """The dataset's id names its blocks in the cache; ``sizes`` holds every file that ``read`` is asked for."""
        self._dataset, self._sizes, self._check = dataset, sizes, check

    def content(self, name: str) -> bytes:
        """All bytes of a small file, fetched anew."""
        return self._persist(name, lambda: self._call(self._files.cat_file, self._url(name)))

    def sizes(self, names: list[str]) -> list[int]:
        """Bytes of the files, asked for in parallel."""
        return list(self._pool.map(self._size, names))

    def read(self, name: str, offset: int, length: int, around: Span | None = None) -> bytes:
        """``length`` bytes from ``offset``, out of cached blocks."""
        parts = []
        for block in self._blocks(name, offset, length, around):
            with self._lock:
                coming = self._coming.pop(block.key, None)
            if coming is not None:
                coming.exception()  # waits; what went wrong there is tried again and raised here
            begin = max(offset, block.offset)
            end = min(offset + length, block.offset + block.size)
            parts.append(
                self._cache.read(block.key, block.size, begin - block.offset, end - begin, self._fetcher(block))
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_origin(self, name: str, offset: int, length: int) -> bytes:
        """As ``read``, past the cache."""
        return self._persist(name, lambda: self._fetch_once(name, offset, length))

    def prefetch(self, name: str, offset: int, length: int, around: Span | None = None) -> None:
        """Begins to fetch the blocks that hold these bytes."""
        for block in self._blocks(name, offset, length, around):
            with self._lock:
                if block.key not in self._coming and not self._cache.holds(block.key, block.size):
                    self._coming[block.key] = self._pool.submit(self._bring, block)

    def forget(self, name: str, offset: int, length: int, around: Span | None = None) -> bool:
        """Drops the cached blocks that hold these bytes."""
        for block in self._blocks(name, offset, length, around):
            self._cache.drop(block.key)
        return True

    def _blocks(self, name: str, offset: int, length: int, around: Span | None) -> "Iterator[_Block]":
        """What is fetched as one: ``around``, or the blocks of a grid over the file."""
        size, block_bytes = self._sizes[name], self._config.block_bytes
        if offset + length > size:
            raise ValueError(f"{name}: bytes {offset} to {offset + length} of {size}")
        if around is not None:
            key = f"{self._dataset}/{name}/{around.offset}+{around.length}"
            yield _Block(name, key, around.offset, around.length)
            return
        for number in range(offset // block_bytes, -(-(offset + length) // block_bytes)):
            begin = number * block_bytes
            key = f"{self._dataset}/{name}/{number}/{block_bytes}"
            yield _Block(name, key, begin, min(block_bytes, size - begin))

    def _bring(self, block: "_Block") -> None:
        self._cache.read(block.key, block.size, 0, 0, self._fetcher(block))

    def _fetcher(self, block: "_Block") -> Callable[[], bytes]:
        return lambda: self._fetch(block)

    def _fetch(self, block: "_Block") -> bytes:
        """The block from its origin, checked; a wrong one is fetched once more."""
        damage = None
        for _ in range(2):
            with self._meter.fetching(block.size):
                content = self.read_origin(block.name, block.offset, block.size)
            damage = self._check(block.name, block.offset, content)
            if damage is None:
                return content
        raise InputError(f"{damage}; it came like this twice: the origin is damaged")

    def _fetch_once(self, name: str, offset: int, length: int) -> bytes:
        end = offset + length
        content: bytes = self._call(self._files.cat_file, self._url(name), start=offset, end=end)
        if len(content) != length:
            raise OSError(f"bytes {offset} to {end}: {len(content)} bytes came instead of {length}")
        return content

    def _size(self, name: str) -> int:
        return int(self._persist(name, lambda: self._call(self._files.info, self._url(name)))["size"])

    def _call(self, function: Callable[..., Result], url: str, **arguments: Any) -> Result:
        """Calls the file system, with a time limit where it knows one."""
        if self._files.async_impl:
            arguments["timeout"] = self._config.timeout
        return function(url, **arguments)

    def _url(self, name: str) -> str:
        return file_in(self._root, name)

    def _persist(self, name: str, action: Callable[[], Result]) -> Result:
        """``action``'s result, after as many tries as the config allows."""
        for attempt in range(1, self._config.attempts + 1):
            try:
                return action()
            except InputError:  # a redirect to another host: no failure that passes
                raise
            except FileNotFoundError as error:
                raise refusal_in(error) or InputError(f"{self.location}/{name}: no such file") from None
            except Exception as error:  # every file system has its own kinds
                failure = f"{type(error).__name__} {error}".strip()
                if attempt < self._config.attempts:
                    longest = min(LONGEST_PAUSE, self._config.backoff * 2 ** (attempt - 1))
                    pause = longest * random.uniform(0.5, 1.0)
                    self._tell(name, attempt, failure, pause)
                    time.sleep(pause)
        raise InputError(f"{self.location}/{name}: not readable after {self._config.attempts} tries: {failure}")

    def _tell(self, name: str, attempt: int, failure: str, pause: float) -> None:
        """A failure that passes goes to the log; one that lasts is shown while it is waited for."""
        logging.getLogger(__name__).log(
            logging.ERROR if attempt >= QUIET_TRIES else logging.WARNING,
            "%s/%s: try %d of %d failed (%s); the next in %.1f s",
            *(self.location, name, attempt, self._config.attempts, failure, pause),
        )


@dataclass(frozen=True)
class _Block:
    """A part of a file that is fetched and kept as one."""

    name: str
    key: str
    """its name in the cache"""
    offset: int
    size: int
