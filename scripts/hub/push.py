"""An exported folder sent to a repository of models on the Hugging Face hub, as one commit.

In: the folder, and the repository's name. Out: the commit. Always: what is sent is what the list says, file by file;
the token, from HF_TOKEN or `hf auth login`, stands in no line and no error.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

REPOSITORY = r"([A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
HIDDEN = "[hidden]"


@dataclass(frozen=True)
class Sent:
    """One file."""

    path: Path
    name: str
    """in the repository"""
    size: int
    """bytes"""


def check_repository(name: str, setting: str) -> None:
    """Raises InputError, with ``setting`` in front, for what cannot be a repository's name."""
    if not re.fullmatch(REPOSITORY, name) or "--" in name or ".." in name:
        raise InputError(f"{setting} {name!r:.120}: is no repository's name; name one as in me/my-model")


def what_is_sent(folder: Path) -> list[Sent]:
    """Every file of ``folder``, in the order of its name, but hidden ones.

    Raises:
        InputError: a link, which would send what lies elsewhere.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if path.is_symlink():
            raise InputError(f"--push: {path} is a link; an export holds none, so remove it")
        if path.is_file():
            found.append(Sent(path, name, path.stat().st_size))
    return found


def as_lines(files: Sequence[Sent], repository: str) -> list[str]:
    """What would be sent, and how large it is."""
    total = sum(file.size for file in files)
    return [
        f"would be sent to {repository}: {len(files)} files, {total:,} bytes",
        *(f"{file.size:>16,}  {file.name}" for file in files),
    ]


def push(files: Sequence[Sent], repository: str, message: str, private: bool) -> str:
    """Makes the repository where it is not there, and one commit of ``files``; returns the commit's address.

    Args:
        private: whether a repository that is made now is seen by its owner only; one that is there stays as it is.

    Raises:
        InputError: no login, or what the hub or the network refuses, in its own words.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token  # with its HTTP client slow to import

    token = get_token()
    if not token:
        raise InputError(f"--push {repository}: nobody is logged in; set HF_TOKEN, or run `hf auth login`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # words of the server's, which nobody has looked through
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            operations = [CommitOperationAdd(file.name, file.path) for file in files]
            done = api.create_commit(repository, operations, commit_message=message)
    except Exception as error:  # of the hub, of HTTP, of the disk: all are told in one line
        raise InputError(f"--push {repository}: {_without_token(f'{type(error).__name__}: {error}', token)}") from None
    return _without_token(str(done.commit_url), token)


def _without_token(text: str, token: str) -> str:
    """``text`` in one line, without this token or anything that looks like one."""
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", HIDDEN, " ".join(text.split()).replace(token, HIDDEN))
