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
from typing import Any, BinaryIO, cast

import pyarrow as pa

from data.damage import DamagedFile, shown, unreachable
from data.kinds import Compression

LARGEST = 1 << 30
"""bytes of one document, or of a JSON array"""


@contextmanager
def opened(file: str, compression: Compression) -> Iterator[BinaryIO]:
    """The unpacked content of ``file``; seekable where nothing is packed."""
    with ExitStack() as stack:
        packed: Any = stack.enter_context(_open(file))
        if compression and not packed.read(1):
            raise DamagedFile(f"{shown(file)}: is empty, though its name says {compression}")
        packed.seek(0)
        if compression == "gz":
            packed = stack.enter_context(gzip.GzipFile(fileobj=packed))
        elif compression == "bz2":
            packed = stack.enter_context(bz2.BZ2File(packed))
        elif compression == "xz":
            packed = stack.enter_context(lzma.LZMAFile(packed))
        elif compression == "zst":  # with Arrow's own codec: Python's library has none
            packed = stack.enter_context(pa.CompressedInputStream(packed, "zstd"))
        yield cast(BinaryIO, io.BufferedReader(packed) if compression else packed)


def read_whole(stream: BinaryIO, file: str, what: str) -> bytes:
    """All of ``stream``, of which no more than ``LARGEST`` is held in memory.

    Raises:
        DamagedFile: there is more.
    """
    content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DamagedFile(f"{shown(file)}: {what} of more than {LARGEST >> 20} MiB; write it as several documents")
    return content


def _open(file: str) -> Any:
    if "://" not in file:
        return Path(file).open("rb")
    import fsspec

    try:
        return fsspec.open(file, "rb").open()
    except Exception as error:
        raise unreachable(file, error) from None
