"""The walk through what the user names as input: which files are read, and what is passed over.

In: a file, folder or pattern. Out: paths of files of known kinds. Always: whatever lies there and is not read is
counted by its reason; a link is followed, and what it leads to is read once; a folder that this program writes is not
read.
"""

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError
from data.kinds import ACCEPTED, kind_of
from data.manifest import MANIFEST_FILE

STATE_FILE = "state.json"
SPLITS_FILE = "dataset_dict.json"
BESIDE_SAVED = "files beside the data in folders of save_to_disk"
TOKENIZER_FILE = "tokenizer_info.json"


class Walk:
    """One walk over all inputs of a command, so that no file is read under two names."""

    def __init__(self, passed_over: Counter[str], output: Path | None = None, flag: str = "--input") -> None:
        """``output`` is the folder that the command writes, ``flag`` the setting that names the inputs."""
        self._passed_over = passed_over
        self._output = output.resolve() if output else None
        self._flag = flag
        self._seen: set[Path] = set()

    def files_of(self, entry: str) -> list[str] | None:
        """The files behind ``entry``; None: there is nothing of that name.

        Raises:
            InputError: a folder that cannot be read, a single file of no known kind, or the command's own output.
        """
        if "\0" in entry:
            raise InputError(f"{self._flag}: a name with a NUL character: {entry!r}")
        path = Path(entry)
        try:
            if path.is_dir():
                self._refuse_output(path)
                return list(self._folder(path))
            if path.exists():
                return self._named_file(path)
            matches = sorted(glob.glob(entry, recursive=True))  # noqa: PTH207
        except OSError as error:
            raise InputError(f"{self._flag} {entry}: {error.strerror or error}") from None
        if not matches:
            return None
        return [file for match in matches for file in self._entry(Path(match))]

    def _refuse_output(self, folder: Path) -> None:
        place = folder.resolve()
        if self._output and (place == self._output or self._output in place.parents):
            raise InputError(
                f"{self._flag} {folder}: lies in --output {self._output}, where the shards go; choose another folder "
                "for them"
            )

    def _named_file(self, path: Path) -> list[str]:
        """A file that the user names by itself must be of a known kind."""
        if not path.is_file():
            raise InputError(f"{self._flag} {path}: neither a file nor a folder")
        if kind_of(path.name) is None:
            raise InputError(f"{self._flag} {path}: not a kind of file that is read; those are {ACCEPTED}")
        return list(self._file(path))

    def _entry(self, path: Path) -> Iterator[str]:
        """What stands in a folder under ``path``."""
        if path.name.startswith("."):
            self._passed_over["hidden files and folders"] += 1
        elif path.is_dir():
            yield from self._folder(path)
        elif path.is_file():
            yield from self._file(path)
        else:
            self._passed_over["links to nothing" if path.is_symlink() else "neither files nor folders"] += 1

    def _file(self, path: Path) -> Iterator[str]:
        if kind_of(path.name) is None:
            self._passed_over[f"files of other kinds ({path.suffix.lower() or 'no suffix'})"] += 1
        elif self._is_new(path):
            yield str(path)

    def _is_new(self, path: Path) -> bool:
        place = path.resolve()
        if place in self._seen:
            self._passed_over["other names of a file or folder that is read"] += 1
            return False
        self._seen.add(place)
        return True

    def _folder(self, path: Path) -> Iterator[str]:
        if path.resolve() == self._output:
            self._passed_over["the folder that the shards go to"] += 1
            return
        if not self._is_new(path):
            return
        try:
            names = sorted(os.listdir(path))  # noqa: PTH208
        except OSError as error:
            raise InputError(f"{self._flag} {path}: not a readable folder: {error.strerror or error}") from None
        if _is_ours(path, names):
            self._passed_over["folders of token shards or of a tokenizer"] += 1
        elif STATE_FILE in names and (files := _saved_files(path)) is not None:
            yield from (str(file) for file in files if self._is_new(file))
            self._passed_over[BESIDE_SAVED] += len(set(names) - {file.name for file in files})
        elif SPLITS_FILE in names:
            self._passed_over[BESIDE_SAVED] += 1
            yield from self._entries(path, [name for name in names if name != SPLITS_FILE])
        else:
            yield from self._entries(path, names)

    def _entries(self, path: Path, names: list[str]) -> Iterator[str]:
        for name in names:
            yield from self._entry(path / name)


def _is_ours(folder: Path, names: list[str]) -> bool:
    """Token shards, or the folder of an unfinished preparation; both hold their tokenizer's description."""
    return TOKENIZER_FILE in names or (MANIFEST_FILE in names and any(name.endswith(".checksums") for name in names))


def _saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a folder that datasets' `save_to_disk` wrote; None: it is no such folder."""
    if not (folder / STATE_FILE).is_file():
        return None
    try:
        state = json.loads((folder / STATE_FILE).read_bytes())
    except (ValueError, RecursionError):
        return None
    if not isinstance(state, dict) or "_data_files" not in state:
        return None
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(f"{folder}: rows chosen by an index file: call flatten_indices() before save_to_disk")
    try:
        files = [folder / str(entry["filename"]) for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise InputError(f"{folder / STATE_FILE}: _data_files: expected a list of file names") from None
    for file in files:
        if file.parent != folder or not file.name.endswith(".arrow"):
            raise InputError(f"{folder / STATE_FILE}: {file.name!r} is not an Arrow file of this folder")
        if not file.is_file():
            raise InputError(f"{file}: is missing, though {STATE_FILE} names it")
    return files
