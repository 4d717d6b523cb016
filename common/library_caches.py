"""Where libraries keep what they fetch and compile, when they would take a folder under /tmp that anybody can foresee.

In: a variable by which a library is told its folder. Out: the variable, set to a folder of this user alone. Always:
what the user has set stays; nothing is read from, or compiled into, a folder that another user may have planted.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError
from common.private import open_private, user_cache_folder

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
"""torch compiles into it, and runs what it finds there; by default /tmp/torchinductor_USER"""
TIKTOKEN = ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
"""by default /tmp/data-gym-cache; empty: nothing is kept"""


def keep_compiled_code_private() -> None:
    """Names torch's folder of compiled code; without a home it is one that goes with this process."""
    if INDUCTOR in os.environ:
        return
    folder = _private_folder("inductor", INDUCTOR)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="inductor_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[INDUCTOR] = str(folder)


@contextmanager
def private_encodings() -> Iterator[None]:
    """Within the block, tiktoken keeps its files in the user's cache folder, or nowhere if there is none."""
    if any(variable in os.environ for variable in TIKTOKEN):
        yield
        return
    os.environ[TIKTOKEN[0]] = str(_private_folder("encodings", TIKTOKEN[0]) or "")
    try:
        yield
    finally:
        del os.environ[TIKTOKEN[0]]


def _private_folder(name: str, variable: str) -> Path | None:
    try:
        folder = user_cache_folder(variable) / name
        os.close(open_private(folder, variable))
    except InputError:
        return None
    return folder
