"""A second user of the machine, and a place where everyone may put things, for tests of what users can do to others."""

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STRANGER = 65534
THIRD = 65533


def as_stranger(act: Callable[[], object], user: int = STRANGER) -> None:
    """Calls ``act`` as the second user, or a third, in a process of its own; skips the test where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("only root can become a second user")
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the second user failed"


@contextmanager
def shared_place(mode: int = 0o1777) -> Iterator[Path]:
    """A folder like /tmp."""
    place = Path(tempfile.mkdtemp(prefix="shared_place_"))
    place.chmod(mode)
    try:
        yield place
    finally:
        shutil.rmtree(place)
