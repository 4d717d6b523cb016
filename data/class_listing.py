"""Which classes of document lengths lie in a folder, and what they are called.

In: the bounds between classes, or the file that lists the classes. Out: names of folders. Always: the list is written
last; its presence says that all classes are whole.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import write_json

CLASSES_FILE = "length_classes.json"
VERSION = 1
FOLDER = re.compile(r"(under|from)_[0-9]{1,18}")


def class_folders(bounds: Sequence[int]) -> list[str]:
    """A name for each class, the shortest first; ``bounds`` are the tokens from which on the next class begins."""
    return [f"under_{bounds[0]}", *(f"from_{bound}" for bound in bounds)]


def write_listing(folder: Path, request: str, folders: Sequence[str]) -> None:
    """Says which classes ``folder`` holds; ``request`` tells what they were made of."""
    write_json(folder / CLASSES_FILE, {"version": VERSION, "request": request, "folders": list(folders)})


def parse_listing(content: bytes, where: str) -> dict[str, Any]:
    """What ``write_listing`` wrote.

    Raises:
        InputError: not such a file; ``where`` names it.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a list of classes of lengths: {error}") from None
    folders = values.get("folders") if isinstance(values, dict) else None
    if not isinstance(folders, list) or not folders or values.get("version") != VERSION:
        raise InputError(f"{where}: not a list of classes of lengths of version {VERSION}; make it again")
    if not all(isinstance(name, str) and FOLDER.fullmatch(name) for name in folders):
        raise InputError(f"{where}: damaged: names folders that are none of its classes; make it again")
    return dict(values)
