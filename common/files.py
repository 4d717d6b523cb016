"""Files that are whole or absent: written under a temporary name, flushed to the disk, then renamed.

In: text, bytes or JSON and a path. Out: the file. Always: a reader of ``path`` sees the old content or the
new, never a part, whatever is killed when; no link that another user may have put there is written through.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from common.errors import InputError

TEMPORARY_SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary neighbour of ``path`` for writing; it takes ``path``'s name when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:  # a name that nobody can foresee, and that is not there
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk does not say which file it refused
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes from ``folder``, where nobody may be writing, what killed processes have left of ``atomic_file``."""
    for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
        if re.fullmatch(rf".+\.[0-9a-f]{{12}}\{TEMPORARY_SUFFIX}", path.name):
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces the file ``path`` by ``content`` in one step."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON with sorted keys: equal values give equal bytes."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def finite(value: Any) -> Any:
    """``value`` as JSON has it: null for every number in it that is not finite, for which JSON has no word."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file; ``what`` names it in the error, as in "corpus manifest"."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: not a readable {what}: {error}") from None


def open_itself(path: Path, mode: str, buffering: int = -1) -> IO[Any]:
    """Opens the file of this name, never another one to which a link of this name leads.

    Raises:
        OSError: as ``open`` does; ELOOP for a link.
    """
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def flush_file(path: Path) -> None:
    """Makes the content of ``path`` durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Makes renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_json(value: Any) -> str:
    """A digest of ``value`` that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
