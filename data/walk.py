"""The walk through what the user names as input: which files are read, and what is passed over.

In: a file, folder or pattern. Out: paths of files of known kinds. Always: whatever lies there and is not read is
counted by its reason; a link is followed, and what it leads to is read once; a folder that this program writes is not
read.
"""

import errno
import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from common.errors import InputError
from common.typed import shortened
from data.kinds import ACCEPTED, COMPRESSIONS, kind_of
from data.manifest import MANIFEST_FILE

STATE_FILE = "state.json"
SPLITS_FILE = "dataset_dict.json"
BESIDE_SAVED = "files beside the data in folders of save_to_disk"
TOKENIZER_FILE = "tokenizer_info.json"
MOST_SUFFIXES = 40
"""suffixes under which files that are passed over are counted; files of any other are counted together"""
LONGEST_SUFFIX = 16


class Walk:
    """One walk over all inputs of a command, so that no file is read under two names."""

    def __init__(self, passed_over: Counter[str], output: Path | None = None, flag: str = "--input") -> None:
        """``output`` is the folder that the command writes, ``flag`` the setting that names the inputs."""
        self._passed_over = passed_over
        self._output = output.resolve() if output else None
        self._flag = flag
        self._seen: set[str] = set()
        """real paths"""
        self._suffixes: set[str] = set()
        """of files that are not read"""

    def files_of(self, entry: str) -> list[str] | None:
        """The files behind ``entry``; None: there is nothing of that name.

        Raises:
            InputError: a folder that cannot be read, a single file of no known kind, or the command's own output.
        """
        if "\0" in entry:
            raise InputError(f"{self._flag}: a name with a NUL character: {entry!r}")
        if not entry:
            raise InputError(f"{self._flag}: an empty name; name a file or a folder")
        path = Path(entry)
        try:
            if path.is_dir():
                self._refuse_output(path)
                return list(self._folder(entry, os.path.realpath(entry)))
            if path.exists():
                return self._named_file(path)
            matches = sorted(glob.glob(entry, recursive=True))  # noqa: PTH207
        except OSError as error:
            name = shortened(str(error.filename or entry))
            raise InputError(f"{self._flag} {name}: {error.strerror or error}") from None
        if not matches:
            return None
        return [file for match in matches for file in self._match(match)]

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
        return list(self._file(str(path), os.path.realpath(path)))

    def _match(self, match: str) -> Iterator[str]:
        """What matches a pattern is treated as if it stood in a folder that is read."""
        path = Path(match)
        if path.name.startswith("."):
            self._passed_over["hidden files and folders"] += 1
        elif path.is_dir():
            yield from self._folder(match, os.path.realpath(match))
        elif path.is_file():
            yield from self._file(match, os.path.realpath(match))
        else:
            self._passed_over[_other(match)] += 1

    def _entry(self, entry: os.DirEntry[str], place: str) -> Iterator[str]:
        """One entry of the folder whose real path is ``place``; looks no more at the disk than it must."""
        if entry.name.startswith("."):
            self._passed_over["hidden files and folders"] += 1
            return
        is_link = entry.is_symlink()
        real = os.path.realpath(entry.path) if is_link else f"{place.rstrip('/')}/{entry.name}"
        if _is_there(entry.is_dir):
            yield from self._folder(entry.path, real)
        elif _is_there(entry.is_file):
            yield from self._file(entry.path, real)
        else:
            self._passed_over[_other(entry.path)] += 1

    def _file(self, path: str, real: str) -> Iterator[str]:
        name = PurePath(path).name
        if kind_of(name) is None:
            self._pass_over_kind(name)
        elif self._is_new(real):
            yield path

    def _pass_over_kind(self, name: str) -> None:
        suffixes = PurePath(name.lower()).suffixes
        packed = bool(suffixes) and suffixes[-1][1:] in COMPRESSIONS
        suffix = "".join(suffixes[-2:] if packed else suffixes[-1:])
        if suffix not in self._suffixes and (len(self._suffixes) == MOST_SUFFIXES or len(suffix) > LONGEST_SUFFIX):
            suffix = "others"  # numbers, dates, hashes
        else:
            self._suffixes.add(suffix)
        self._passed_over[f"files of other kinds ({suffix or 'no suffix'})"] += 1

    def _is_new(self, real: str) -> bool:
        if real in self._seen:
            self._passed_over["other names of a file or folder that is read"] += 1
            return False
        self._seen.add(real)
        return True

    def _folder(self, path: str, real: str) -> Iterator[str]:
        if self._output and real == str(self._output):
            self._passed_over["the folder that the shards go to"] += 1
            return
        if not self._is_new(real):
            return
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        names = [entry.name for entry in found]
        if _is_ours(names):
            self._passed_over["folders of token shards or of a tokenizer"] += 1
            return
        if STATE_FILE in names and (files := _saved_files(Path(path))) is not None:
            self._passed_over[BESIDE_SAVED] += len(set(names) - {file.name for file in files})
            yield from (str(file) for file in files if self._is_new(os.path.realpath(file)))
            return
        if SPLITS_FILE in names:
            self._passed_over[BESIDE_SAVED] += 1
        for entry in found:
            if entry.name != SPLITS_FILE:
                yield from self._entry(entry, real)


def _other(path: str) -> str:
    """What stands under ``path``, which is neither a file nor a folder."""
    return "neither files nor folders" if Path(path).exists() else "links to nothing"


def _is_there(is_kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads in a circle is of none."""
    try:
        return is_kind()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _is_ours(names: list[str]) -> bool:
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
