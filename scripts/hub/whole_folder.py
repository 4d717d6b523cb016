"""An output folder that appears as a whole, made by one process at a time.

In: the folder, which need not exist. Out: another one to write into, which takes its name when all is well. Always: a
second process that would make the same folder is refused in one line, however the first one ends; what a killed one
left goes with the next. The folder that was there goes when the new one has its name, not before, and never in part: it
is renamed first, since a program that still reads it may keep some of its files.
"""

import glob
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.file_lock import only_holder
from common.files import TEMPORARY_SUFFIX

LOCK_SUFFIX = ".lock"
REPLACED = f".replaced{TEMPORARY_SUFFIX}"


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """An empty folder, which replaces ``output`` when the block ends well and goes otherwise.

    Raises:
        InputError: another process makes ``output``.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"--output {output}: another process writes it; wait for that one, or choose another folder"
    temporary = output.with_name(output.name + TEMPORARY_SUFFIX)
    with only_holder(output.with_name(output.name + LOCK_SUFFIX), refusal):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            _replace(output, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(output: Path, new: Path) -> None:
    """Gives ``new`` the name ``output``; a folder of that name goes then, or has its name again where that fails."""
    old = output.with_name(f"{output.name}.{secrets.token_hex(6)}{REPLACED}")
    if output.is_dir() and not output.is_symlink():
        output.rename(old)
    try:
        new.rename(output)
    finally:
        if old.exists() and not output.exists():
            old.rename(output)
    for replaced in output.parent.glob(f"{glob.escape(output.name)}.*{REPLACED}"):  # earlier ones as well
        shutil.rmtree(replaced, ignore_errors=True)
