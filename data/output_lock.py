"""One writer at a time in an output folder.

In: the folder. Out: the right to write token shards into it, or an InputError. Always: the right ends with its process,
however that ends; whoever ends well leaves no file behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.file_lock import only_holder
from common.files import remove_unfinished

LOCK_FILE = "prepare.lock"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Makes ``folder`` where it is missing, and holds it, without what killed writers have begun in it.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"--output {folder}: another process writes there; wait for it, or choose another folder"
    with only_holder(folder / LOCK_FILE, refusal):
        remove_unfinished(folder)
        yield
