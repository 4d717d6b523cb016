"""What is asked of processes that may end at any moment.

In: a process number. Out: what the kernel says of it. Always: of one that has just gone nothing is said, and nothing
is raised.
"""

from pathlib import Path

import psutil

GONE = (FileNotFoundError, ProcessLookupError)
"""what /proc answers before and after it was opened"""


def is_alive(process: int) -> bool:
    """Whether it still runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except GONE:
        return False


def environment_of(process: int) -> bytes:
    """What it was started with, each variable between two zeros."""
    try:
        return b"\0" + Path(f"/proc/{process}/environ").read_bytes()
    except GONE:
        return b""


def workers_of(process: int) -> list[psutil.Process]:
    """Its children that multiprocessing has started to work for it."""
    return [child for child in psutil.Process(process).children() if "spawn_main" in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie, too
        return ""
