"""The kernel's lock on an open file, which ends with its holder and which shared file systems pass on to other nodes.

In: the descriptor of a file open for writing. Out: whether the lock is ours, or somebody's. Always: the lock belongs to
the open file (an "open file description" lock): opening and closing the same file elsewhere does not give it up, as it
would for a lock of the process.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError

WHOLE_FILE = "hhqqi4x"
BETWEEN_TRIES = 0.05
"""seconds"""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def try_lock(file: int) -> bool | None:
    """Takes the lock if it is free; False: another has it; None: this file system has no locks."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _request())
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def is_locked(file: int) -> bool | None:
    """Whether another holds the lock, without taking it; None: this file system has no locks."""
    try:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _request())
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
    return bool(struct.unpack(WHOLE_FILE, answer)[0] != fcntl.F_UNLCK)


@contextmanager
def only_holder(path: Path, refusal: str, patience: float = 0.0) -> Iterator[None]:
    """Holds the lock of the file ``path``, which is made and goes again; where there are no locks, nothing is held.

    Raises:
        InputError: another process holds it, for ``patience`` seconds already; ``refusal`` is the line.
    """
    file = _locked(path, refusal, time.monotonic() + patience)
    try:
        yield
    finally:
        if _is_at(file, path):
            path.unlink()
        os.close(file)


def _locked(path: Path, refusal: str, latest: float) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if try_lock(file) is False:
            os.close(file)
            if time.monotonic() >= latest:
                raise InputError(refusal)
            time.sleep(BETWEEN_TRIES)
            continue
        if _is_at(file, path):
            return file
        os.close(file)  # the one before took it away between our opening and our lock


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _request() -> bytes:
    return struct.pack(WHOLE_FILE, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
