"""Files that cannot be read: one line with the file's name, whatever library noticed it.

In: a file's name and a block of code that reads it. Out: the block's result, or a DamagedFile. Always: the message
names the file and holds no password of a URL; an accident of the machine or of the network is not called damage.
"""

import contextlib
import csv
import errno
import gzip
import lzma
import zlib
from collections.abc import Iterator

import pyarrow as pa

from common.errors import InputError
from common.urls import without_credentials

DAMAGE_ERRORS = (pa.ArrowException, ValueError, EOFError, OverflowError, zlib.error, lzma.LZMAError, csv.Error)
DAMAGE_NUMBERS = (None, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.EINVAL)
"""errno of an error that lies in the file; libraries that unpack leave it out"""


class DamagedFile(InputError):
    """A file that is damaged, unreadable, or not what its name says."""


@contextlib.contextmanager
def damage_named(file: str) -> Iterator[None]:
    """Turns what reading ``file`` raises into one line that names it.

    Raises:
        DamagedFile: the file is at fault.
        InputError: the store behind a URL is.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if "://" in file and not _is_of_unpacking(error):
            raise unreachable(file, error) from None
        if error.errno not in DAMAGE_NUMBERS:
            error.filename = error.filename or file
            raise
        raise _damaged(file, error) from None
    except DAMAGE_ERRORS as error:
        raise _damaged(file, error) from None
    except MemoryError:  # a length that is damaged asks for all there is
        raise DamagedFile(f"{shown(file)}: damaged, or a row takes more memory than this machine has") from None
    except Exception as error:
        if "://" not in file:
            raise
        raise unreachable(file, error) from None  # every file system has its own kinds


def unreachable(url: str, error: Exception) -> InputError:
    """The line about a store that does not answer."""
    cause = error.__cause__ or error  # file systems hide a refused connection behind "not found"
    reason = shown(f"{type(cause).__name__} {cause}")
    return InputError(f"{shown(url)}: cannot be read: {reason[:300]}")


def shown(file: str) -> str:
    """``file``, or a text with URLs in it, for people: without users, passwords and queries."""
    return without_credentials(file)


def _damaged(file: str, error: Exception) -> DamagedFile:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return DamagedFile(f"{shown(file)}: damaged, or not what its name says: {reason[:300]}")


def _is_of_unpacking(error: OSError) -> bool:
    return error.errno is None and type(error) in (OSError, gzip.BadGzipFile)
