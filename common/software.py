"""Which program this is, and on which libraries: its commit, and the versions that are installed.

In: names of packages. Out: a commit, versions. Always: what is not known is left out; the commit of another project,
inside whose checkout this program is installed, is never taken for its own.
"""

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PROGRAM = "shared-diff-pretrain"
TRAINS = (PROGRAM, "torch", "deepspeed", "megatron-core", "flash-attn", "triton")
"""what a run trains with"""
CHANGED = "-changed"
"""follows a commit from which files of the program differ"""
LONGEST_SECONDS = 20.0
"""git may take; a slow file system must not hold a start up"""


def commit(root: Path | None = None) -> str | None:
    """The commit of the program's own checkout, and ``CHANGED`` where Python files differ from it; None: no checkout.

    Args:
        root: the folder that the rooms lie in.
    """
    root = root or Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        found = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", ":/*.py") if found else ""
    except (OSError, subprocess.TimeoutExpired):  # no git, or none that answers
        return None
    return f"{found}{CHANGED if changed else ''}" if found else None


def _git(root: Path, *arguments: str) -> str:
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as hooks set them
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS)
    return done.stdout.strip() if done.returncode == 0 else ""


def versions(packages: Iterable[str] = TRAINS) -> dict[str, str]:
    """Of Python and those of ``packages`` that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from its folder, or not needed here
            found[name] = metadata.version(name)
    return found
