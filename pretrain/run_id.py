"""Who a run is: a number drawn once and kept in its folder.

In: the run folder, on rank 0, which holds its lock. Out: the id. Always: two runs never have the
same one, whatever their names; a run that goes on, or whose folder was moved, keeps its own; a copy gets another.
"""

import contextlib
import re
import secrets
from pathlib import Path

from common.errors import InputError
from common.files import read_json, write_json

ID_FILE = "run_id.json"
PATTERN = r"[0-9a-f]{16}"


def keep_run_id(run_folder: Path) -> str:
    """The id that the folder holds, or a new one, which it holds from now on.

    Raises:
        InputError: the file holds something else, or cannot be written.
    """
    file, here = run_folder / ID_FILE, run_folder.resolve()
    run_id = secrets.token_hex(8)
    if file.exists():
        kept, origin = read_run_id(run_folder)
        if _is_same_folder(origin, here):
            return kept
        if _holds(origin, kept):
            print(f"{run_folder}: a copy of {origin}; it is a run of its own from here on", flush=True)
        else:
            run_id = kept  # moved here; a later copy is one of this place
    try:
        write_json(file, {"id": run_id, "folder": str(here)})
    except OSError as error:
        raise InputError(f"run_dir: {file} cannot be written: {error.strerror}") from None
    return run_id


def read_run_id(run_folder: Path) -> tuple[str, Path]:
    """The id, and the folder for which it was drawn.

    Raises:
        InputError: there is none, or something else.
    """
    file = run_folder / ID_FILE
    content = read_json(file, "run id")
    run_id, folder = (content.get("id"), content.get("folder")) if isinstance(content, dict) else (None, None)
    if not isinstance(run_id, str) or not isinstance(folder, str) or not re.fullmatch(PATTERN, run_id):
        raise InputError(f"{file}: holds no run id; restore it, or remove it to let the run have a new one")
    return run_id, Path(folder)


def _is_same_folder(origin: Path, here: Path) -> bool:
    """Whether the two are one, be it by two paths."""
    with contextlib.suppress(OSError, ValueError):
        return origin == here or origin.samefile(here)
    return False


def _holds(origin: Path, run_id: str) -> bool:
    """Whether ``origin`` is still there as the run of this id."""
    with contextlib.suppress(InputError, OSError, ValueError):
        return read_run_id(origin) == (run_id, origin)
    return False
