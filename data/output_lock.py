"""One writer at a time in an output folder.

In: the folder. Out: the right to write token shards into it, or an InputError. Always: the right ends with its process,
however that ends; whoever ends well leaves no file behind.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError
from common.file_lock import try_lock

LOCK_FILE = "prepare.lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes ``folder`` where it is missing, and holds it.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    file = _locked(path)
    try:
        yield
    finally:
        if _is_at(file, path):
            path.unlink()
        os.close(file)


def _locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if try_lock(file) is False:
            os.close(file)
            raise InputError(
                f"--output {path.parent}: another process writes there; wait for it, or choose another folder"
            )
        if _is_at(file, path):
            return file
        os.close(file)  # the one before took it away between our opening and our lock


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False
