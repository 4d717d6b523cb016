"""Folders that other users of the machine can neither plant nor change.

In: a path and the setting that names it. Out: a descriptor of the folder, or an InputError of one line.
Always: every link on the way belongs to this user or to root; below a folder that everyone may write to, so does every
folder; a private one is this user's, closed to all others and no link. What lies in a folder is reached by its
descriptor: nobody can put another folder in its place in between.
"""

import contextlib
import os
import pwd
import stat
from pathlib import Path

from common.errors import InputError

PRODUCT = "shared-diff"
MOST_LINKS = 40
"""on the way to one folder, as the kernel counts"""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""a place on the way: passing through a folder needs no right to list it"""


def user_cache_folder(setting: str) -> Path:
    """This program's part of the user's cache folder.

    Raises:
        InputError: the user has no home; ``setting`` would name another place.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named.startswith("/"):  # by the standard, anything else does not count
        return Path(named) / PRODUCT
    home = os.environ.get("HOME", "")
    if not home:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.geteuid()).pw_dir
    if not home.startswith("/"):
        raise InputError(f"{setting}: this user has no home folder to keep it in; name a folder of your own")
    return Path(home) / ".cache" / PRODUCT


def open_private(path: Path, setting: str) -> int:
    """A descriptor of the folder ``path``, which is made if it is not there.

    Raises:
        InputError: it is not this user's alone, or cannot be made.
    """
    descriptor = _walk(path, setting, make=True, follow_last=False)
    return _checked_private(descriptor, path, setting)


def open_inside(parent: int, name: str, path: Path, setting: str) -> int:
    """A descriptor of the private folder ``name`` in the folder ``parent``; ``path`` names it in errors.

    Raises:
        InputError: it is not this user's alone.
        OSError: it cannot be made or opened.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    return _checked_private(os.open(name, FOLDER, dir_fd=parent), path, setting)


def check_trusted(path: Path, setting: str) -> None:
    """Refuses ``path``, a folder to write to, where another user could have planted it or a link on the way.

    What is not there yet is no fault.

    Raises:
        InputError: names the folder or link, and whose it is.
    """
    with contextlib.suppress(_NotThere):
        os.close(_walk(path, setting, make=False, follow_last=True))


class _NotThere(Exception):
    """The walk ends: nothing has this name."""


def _walk(path: Path, setting: str, *, make: bool, follow_last: bool) -> int:
    """Opens ``path`` from the root on, name by name."""
    ahead = list(reversed(path.absolute().parts[1:]))
    current, where, exposed, links = os.open("/", PLACE), Path("/"), False, 0
    try:
        while ahead:
            name = ahead.pop()
            exposed = exposed or bool(os.fstat(current).st_mode & stat.S_IWOTH)
            found = _enter(current, name, where / name, make=make)
            status = os.fstat(found)
            if stat.S_ISLNK(status.st_mode):
                target = Path(os.readlink("", dir_fd=found))
                os.close(found)
                links += 1
                if links > MOST_LINKS:
                    raise InputError(f"{setting}: {path}: its links lead in a circle")
                if not ahead and not follow_last:
                    raise InputError(f"{setting}: {where / name} is a link; name the folder itself")
                _check_owner(status, where / name, setting)
                ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                if target.is_absolute():
                    os.close(current)
                    current, where, exposed = os.open("/", PLACE), Path("/"), False
                continue
            os.close(current)
            current, where = found, where / name
            if not stat.S_ISDIR(status.st_mode):
                raise InputError(f"{setting}: {where} is no folder; name another one")
            if exposed:
                _check_owner(status, where, setting)
        return os.open(".", FOLDER, dir_fd=current)
    except OSError as error:
        raise InputError(
            f"{setting}: {path} cannot be made or opened: {where}: {error.strerror}; name another folder"
        ) from None
    finally:
        os.close(current)


def _enter(parent: int, name: str, path: Path, *, make: bool) -> int:
    """A descriptor of what is called ``name``, be it a link; a folder is made where nothing is and ``make`` says so."""
    try:
        return os.open(name, PLACE, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise _NotThere(str(path)) from None
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        return os.open(name, PLACE, dir_fd=parent)


def _check_owner(status: os.stat_result, path: Path, setting: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise InputError(
            f"{setting}: {path} belongs to {owner_name(status.st_uid)}, who may have put it there for you to write "
            "through; name a folder of your own"
        )


def _checked_private(descriptor: int, path: Path, setting: str) -> int:
    status = os.fstat(descriptor)
    problem = None
    if status.st_uid != os.geteuid():
        problem = f"{path} belongs to {owner_name(status.st_uid)}; name a folder of your own"
    elif status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        problem = (
            f"{path} is open to other users (mode {mode:04o}); name a folder that is not there yet, or chmod 700 it"
        )
    if problem:
        os.close(descriptor)
        raise InputError(f"{setting}: {problem}")
    return descriptor


def owner_name(user: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"user {user}"
