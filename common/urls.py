"""URLs as they may be shown: without the passwords and signed queries that give access to what they name.

In: a URL, a text that holds some, or a tree of settings. Out: the same without user, password, query and fragment.
Always: what is printed, logged or kept in a file goes through here; only the call that fetches sees the whole URL.
"""

import re
from typing import Any

_SECRETS = re.compile(
    r"""(?P<scheme>\b[a-z][a-z0-9+.-]*://)
    (?:[^\s/?\#"'<>]*@                                             # user:password@
      |[^\s/?\#@:"'<>]*:(?!\d{1,5}(?:[/?\#\s"'<>:,;)\]]|$))\S*@)?  # a password with the signs /, ? or # in it
    (?P<place>[^\s?\#"'<>]*)
    (?:[?\#][^\s"'<>]*?(?=[:,;.)\]]*(?:[\s"'<>]|$)))?              # a query; what ends the sentence is none of it
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """``text``, in which every URL has lost its user, password, query and fragment."""
    return _SECRETS.sub(r"\g<scheme>\g<place>", text) if "://" in text else text


def values_without_credentials(value: Any) -> Any:
    """Nested settings, with every text as ``without_credentials`` gives it."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: values_without_credentials(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [values_without_credentials(entry) for entry in value]
    return value
