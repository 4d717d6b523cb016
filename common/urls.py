"""URLs as they may be shown or kept: without the passwords and signed queries that give access to what they name.

In: a URL, a text that holds some, or a tree of settings. Out: the same without user, password, query and fragment; or
with ``${NAME}`` in their place, a variable of the environment. Always: what is printed, logged or kept in a file goes
through here; only the call that fetches sees the whole URL.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_URL = re.compile(
    r"""(?P<scheme>\b(?:[a-z][a-z0-9+.-]*://
      |(?:https?|s3a?|gc?s|az|abfss?|s?ftps?|ssh|smb|(?:web)?hdfs):/(?=[^/])))  # as a path shows it
    (?P<user>[^\s/?\#"'<>]*@                                             # user:password@
      |[^\s/?\#@:"'<>]*:(?!\d{1,5}(?:[/?\#\s"'<>:,;)\]]|$))\S*@)?  # a password with the signs /, ? or # in it
    (?P<place>[^\s?\#"'<>]*)
    (?P<tail>[?\#][^\s"'<>]*?(?=[:,;.)\]]*(?:[\s"'<>]|$)))?        # a query; what ends the sentence is none of it
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REFERENCE = r"\$\{([A-Za-z_]\w*)\}"
_KEPT_USER = re.compile(rf"[\w.-]*:?{_REFERENCE}@|{_REFERENCE}:{_REFERENCE}@", re.ASCII)
_KEPT_TAIL = re.compile(rf"[?#](?:[\w.-]*=?{_REFERENCE}&?)+", re.ASCII)
_SECRET_QUERY = re.compile(r"sig|token|secret|pass|pwd|key|cred|auth", re.IGNORECASE)
WEB = ("http://", "https://")


def without_credentials(text: str) -> str:
    """``text``, in which every URL has lost its user, password, query and fragment."""
    return _URL.sub(r"\g<scheme>\g<place>", text) if ":/" in text else text


def with_references(text: str) -> str:
    """``text``, in which every URL names variables, as in ``https://${ACCESS_HOST}@host/x?${QUERY_HOST}``, for what
    gives access.

    Where ``text`` is more than a URL, a command for instance, a query stays unless it has the name of a secret.
    """
    if "://" not in text:
        return text
    alone = _URL.fullmatch(text) is not None
    return _URL.sub(lambda url: _referring(url, alone), text)


def references_in(text: str) -> list[str]:
    """The variables that ``text`` names as ``${NAME}``, if it is a URL."""
    return re.findall(_REFERENCE, text, re.ASCII) if "://" in text else []


def resolved(url: str, environment: Mapping[str, str]) -> str:
    """``url`` with the values of the variables that it names.

    Raises:
        KeyError: a variable that is not set.
    """
    if "://" not in url:
        return url
    return re.sub(_REFERENCE, lambda reference: environment[reference[1]], url, flags=re.ASCII)


def values_without_credentials(value: Any) -> Any:
    """Nested settings, with every text as ``without_credentials`` gives it."""
    return _each_text(value, without_credentials)


def values_with_references(value: Any) -> Any:
    """Nested settings, with every text as ``with_references`` gives it."""
    return _each_text(value, with_references)


def references_in_values(value: Any) -> list[str]:
    """The variables that URLs in nested settings name."""
    found: list[str] = []

    def look(text: str) -> str:
        found.extend(references_in(text))
        return text

    _each_text(value, look)
    return list(dict.fromkeys(found))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(entry, change) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(entry, change) for entry in value]
    return value


def _referring(url: re.Match[str], alone: bool) -> str:
    scheme, user, place, tail = url["scheme"], url["user"] or "", url["place"], url["tail"] or ""
    host = re.sub(r"[^A-Z0-9]+", "_", place.partition("/")[0].partition(":")[0].upper()).strip("_") or "URL"
    # A name without a password is a secret on the web only: there it is a token, elsewhere who logs in.
    if user and not _KEPT_USER.fullmatch(user) and (":" in user or scheme.lower() in WEB):
        user = f"${{ACCESS_{host}}}@"
    if tail and not _KEPT_TAIL.fullmatch(tail) and (alone or _SECRET_QUERY.search(tail)):
        tail = f"{tail[0]}${{QUERY_{host}}}"
    return f"{scheme}{user}{place}{tail}"
