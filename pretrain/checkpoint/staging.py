"""The node-local folder where a rank's part of a checkpoint is written and checked first.

In: `checkpoint.staging` and the run's id. Out: a folder of this run and this user alone in it. Always: two runs share
none, whatever their names; no link of another user is followed, and the folder is reached by its descriptor.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from common.private import open_private
from pretrain.config import RunConfig

SETTING = "checkpoint.staging"


def open_staging(config: RunConfig, run_id: str) -> Path | None:
    """The run's folder, made and found to be private; None where none is set.

    Raises:
        InputError: it is another user's, or cannot be made.
    """
    if config.checkpoint.staging is None:
        return None
    folder = Path(config.checkpoint.staging) / run_id
    os.close(open_private(folder, SETTING))
    return folder


@contextlib.contextmanager
def staged_file(folder: Path, name: str) -> Iterator[Path]:
    """A path at which the file ``name`` can be made in ``folder``; what is there before and after goes.

    Raises:
        InputError: the folder is no longer private.
    """
    descriptor = open_private(folder, SETTING)
    file = Path(f"/proc/self/fd/{descriptor}/{name}")
    try:
        file.unlink(missing_ok=True)  # of a save that was killed
        yield file
    except OSError as error:
        if error.filename == str(file):
            error.filename = str(folder / name)
        raise
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
