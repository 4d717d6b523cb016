"""The kernel's lock on an open file, which ends with its holder and which shared file systems pass on to other nodes.

In: the descriptor of a file open for writing. Out: whether the lock is ours, or somebody's. Always: the lock belongs to
the open file (an "open file description" lock): opening and closing the same file elsewhere does not give it up, as it
would for a lock of the process.
"""

import errno
import fcntl
import os
import struct

WHOLE_FILE = "hhqqi4x"
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


def _request() -> bytes:
    return struct.pack(WHOLE_FILE, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
