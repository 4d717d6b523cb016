"""Folders that other users of the machine can neither plant nor change.

In: a path and the setting that names it. Out: a descriptor of the folder, or an InputError of one line.
Always: below a folder that everyone may write to, every folder and link on the way belongs to this user or to root;
a private folder is this user's, closed to all others and no link, and every link on the way to it, wherever, is this
user's or root's. What lies in a folder is reached by its descriptor: nobody can put another in its place in between.

A folder that only has to be trusted may also be one that a colleague opened to a group of this user's, the primary
group aside, which often holds everybody; and who "this user" is, the file system says: some give all files to one user.
"""

import contextlib
import os
import pwd
import secrets
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


def check_trusted(path: Path, setting: str, *, with_content: bool = False) -> None:
    """Refuses ``path``, a folder to write to, where another user could have planted it or a link on the way.

    What is not there yet is no fault.

    Args:
        with_content: the folder's files are written to as well, so nothing of another user may lie in it.

    Raises:
        InputError: names the folder, link or file, and whose it is.
    """
    with contextlib.suppress(_NotThere):
        folder = _walk(path, setting, make=False, follow_last=True)
        try:
            if with_content and os.fstat(folder).st_mode & stat.S_IWOTH:
                _check_content(folder, path, setting)
        finally:
            os.close(folder)


def _check_content(folder: int, path: Path, setting: str) -> None:
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not _is_trusted(status, folder):
                raise InputError(
                    f"{setting}: {path / name} belongs to {owner_name(status.st_uid)}; remove it, and close the folder "
                    f"to others (chmod o-w)"
                )


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
                if exposed or make:
                    _check_owner(status, current, where / name, setting, strict=make)
                ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                if target.is_absolute():
                    os.close(current)
                    current, where, exposed = os.open("/", PLACE), Path("/"), False
                continue
            parent, current, where = current, found, where / name
            try:
                if not stat.S_ISDIR(status.st_mode):
                    raise InputError(f"{setting}: {where} is no folder; name another one")
                if exposed:
                    _check_owner(status, parent, where, setting, strict=make)
            finally:
                os.close(parent)
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


def _check_owner(status: os.stat_result, parent: int, path: Path, setting: str, *, strict: bool) -> None:
    if status.st_uid not in (0, os.geteuid()) and (strict or not _is_trusted(status, parent)):
        raise InputError(
            f"{setting}: {path} belongs to {owner_name(status.st_uid)}, who may have put it there for you to write "
            "through; name a folder of your own"
        )


def _is_trusted(status: os.stat_result, parent: int) -> bool:
    """Whether what lies in the folder ``parent`` belongs to this user or root, or is for a group of this user's."""
    if status.st_uid in (0, os.geteuid()):
        return True
    is_for_group = bool(status.st_mode & stat.S_IWGRP) and not status.st_mode & stat.S_IWOTH
    if is_for_group and status.st_gid in os.getgroups() and status.st_gid != os.getegid():
        return True
    return status.st_uid == _own_number(parent)


def _own_number(folder: int) -> int:
    """The user to whom the file system gives a file that this user makes in ``folder``.

    Root is somebody else on a server that squashes root, and where a mount names one user everybody is that user.
    """
    name = f".{secrets.token_hex(8)}"
    try:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError:
        return os.geteuid()
    try:
        return os.fstat(file).st_uid
    finally:
        os.close(file)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


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
