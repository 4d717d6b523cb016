"""The bytes of a file or URL, unpacked.

In: a file and its compression. Out: a stream of the bytes inside. Always: a packed file that was cut or spoiled is an
error, never a short file.
"""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from common.remote_files import open_remote, refusal_in
from data.damage import DamagedFile, shown, unreachable
from data.kinds import Compression

LARGEST = 1 << 30
"""bytes of one document, or of a JSON array"""
PACKED_BYTES = 1 << 16


@contextmanager
def opened(file: str, compression: Compression) -> Iterator[io.BufferedReader]:
    """The unpacked content of ``file``; seekable where nothing is packed and the store can seek."""
    with ExitStack() as stack:
        packed = _buffered(stack.enter_context(_open(file)))
        if compression and not packed.peek(1):
            raise DamagedFile(f"{shown(file)}: is empty, though its name says {compression}")
        if compression:
            yield _buffered(stack.enter_context(_unpacked(packed, compression)))
        else:
            yield packed


def read_whole(stream: BinaryIO, file: str, what: str) -> bytes:
    """All of ``stream``, of which no more than ``LARGEST`` is held in memory.

    Raises:
        DamagedFile: there is more.
    """
    content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DamagedFile(f"{shown(file)}: {what} of more than {LARGEST >> 20} MiB; write it as several documents")
    return content


def _buffered(stream: Any) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _unpacked(packed: Any, compression: Compression) -> Any:
    if compression == "gz":
        return gzip.GzipFile(fileobj=packed)
    if compression == "bz2":
        return _Streams(packed, bz2.BZ2Decompressor)
    if compression == "xz":
        return _Streams(packed, lzma.LZMADecompressor)
    return pa.CompressedInputStream(packed, "zstd")  # Python's own library has none


class _Streams(io.RawIOBase):
    """One packed stream behind the other, as the parallel packers write them.

    Python's own readers take what does not look like a further stream for the end of the file: of a file whose second
    stream is spoiled they give the first, and no error.
    """

    def __init__(self, packed: io.BufferedReader, new: Callable[[], Any]) -> None:
        self._packed, self._new, self._stream = packed, new, new()

    def readable(self) -> bool:
        """True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills ``buffer``; 0: all streams ended well.

        Raises:
            EOFError, OSError, lzma.LZMAError: the file is cut or spoiled.
        """
        content = b""
        while not content:
            if self._stream.eof:
                rest = self._behind()
                if not rest:
                    return 0
                self._stream = self._new()
            elif self._stream.needs_input:
                rest = self._packed.read(PACKED_BYTES)
                if not rest:
                    raise EOFError("cut: it ends inside its packed data")
            else:
                rest = b""
            content = self._stream.decompress(rest, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _behind(self) -> bytes:
        """The beginning of what follows a stream that ended; zeros are padding."""
        rest: bytes = self._stream.unused_data.lstrip(b"\0")
        while not rest and self._packed.peek(1):
            rest = self._packed.read(PACKED_BYTES).lstrip(b"\0")
        return rest


def _open(file: str) -> Any:
    if "://" not in file:
        return Path(file).open("rb")
    try:
        files, path = open_remote(file)
        return files.open(path, "rb")
    except Exception as error:
        raise refusal_in(error) or unreachable(file, error) from None
