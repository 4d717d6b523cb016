"""The file systems behind URLs: any that fsspec opens.

In: a URL. Out: the file system and the path in it. Always: variables of the environment that the URL names as ${NAME}
are filled in here and nowhere else; a web server cannot send the reader to another host; errors do not show what gives
access.
"""

import os
from types import SimpleNamespace
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from common.errors import InputError
from common.urls import resolved, without_credentials

WEB = ("http", "https")
DEFAULT_PORTS = {"http": 80, "https": 443}


def open_remote(url: str) -> tuple[Any, str]:
    """(file system, path) of ``url``.

    Raises:
        InputError: no such kind of file system, its library is missing, or a variable is not set.
    """
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(resolved(url, os.environ), **_options(url))
    except KeyError as missing:
        raise InputError(
            f"{without_credentials(url)}: {missing.args[0]} is not set in the environment; it stands for what gives "
            "access there"
        ) from None
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url}: cannot be read: {error}") from None
    return files, str(root)


def check_kind(url: str) -> None:
    """Refuses a kind of file system that there is not, or whose library is missing, without asking the store itself.

    Raises:
        InputError: names what is missing.
    """
    import fsspec

    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0] or "file")
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: cannot be read: {error}") from None


def refusal_in(error: BaseException) -> InputError | None:
    """The refused redirect that ``error`` is, or that a file system took for a missing file."""
    return next((found for found in (error, error.__cause__) if isinstance(found, InputError)), None)


def file_in(root: str, name: str) -> str:
    """The path of ``name`` in the folder ``root``; a signed query of a web folder stays at the end."""
    folder, mark, query = root.partition("?") if root.startswith(("http://", "https://")) else (root, "", "")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def check_redirect(url: str, target: str) -> None:
    """Refuses a web server's answer that ``url`` is now found at ``target``, unless that is the same host.

    Raises:
        InputError: names both hosts.
    """
    here, there = urlsplit(url), urlsplit(urljoin(url, target))
    upgrade = (here.scheme, _port(here), there.scheme, _port(there)) == ("http", 80, "https", 443)
    same = (here.scheme, _port(here)) == (there.scheme, _port(there)) or upgrade
    if here.hostname != there.hostname or not same:
        raise InputError(
            f"{url}: {_host(here)} sends the reader on to {_host(there)}, which nobody named; "
            "if you trust that place, name it instead"
        )


def _options(url: str) -> dict[str, Any]:
    return {scheme: {"client_kwargs": _stay_on_host()} for scheme in WEB if f"{scheme}://" in url}


def _stay_on_host() -> dict[str, Any]:
    """What aiohttp's sessions are made with, so that every redirect is looked at before it is followed."""
    import aiohttp

    async def look(session: aiohttp.ClientSession, context: SimpleNamespace, asked: Any) -> None:
        target = asked.response.headers.get("Location") or asked.response.headers.get("URI") or ""
        check_redirect(str(asked.url), target)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(look)
    return {"trace_configs": [trace]}


def _port(url: SplitResult) -> int | None:
    try:
        return url.port or DEFAULT_PORTS.get(url.scheme)
    except ValueError:
        return None


def _host(url: SplitResult) -> str:
    return f"{url.scheme}://{url.hostname}:{_port(url)}"
