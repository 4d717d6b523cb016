"""The bytes of a file or URL, unpacked.

In: a file and its compression. Out: a stream of the bytes inside. Always: a packed file that was cut or spoiled is an
error, never a short file.
"""

import bz2
import gzip
import io
import lzma
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from common.remote_files import open_remote, refusal_in
from data.damage import DamagedFile, shown, unreachable
from data.kinds import Compression

LARGEST = 1 << 30
"""bytes of one document, or of a JSON array"""


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
        return bz2.BZ2File(packed)
    if compression == "xz":
        return lzma.LZMAFile(packed)
    return pa.CompressedInputStream(packed, "zstd")  # Python's own library has none


def _open(file: str) -> Any:
    if "://" not in file:
        return Path(file).open("rb")
    try:
        files, path = open_remote(file)
        return files.open(path, "rb")
    except Exception as error:
        raise refusal_in(error) or unreachable(file, error) from None
