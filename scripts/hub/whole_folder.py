"""An output folder that appears as a whole, made by one process at a time.

In: the folder, which need not exist. Out: another one to write into, which takes its name when all is well. Always: a
second process that would make the same folder is refused in one line, however the first one ends; what a killed one
left goes with the next.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.file_lock import only_holder
from common.files import TEMPORARY_SUFFIX

LOCK_SUFFIX = ".lock"


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
            shutil.rmtree(output, ignore_errors=True)
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
