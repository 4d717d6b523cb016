"""The one kind of error that is the user's to mend.

In: what is wrong, said by the code that noticed it. Out: one line on standard error and exit status 2.
Always: the message names the setting or file, what is wrong with it, and what would be right.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from common.urls import without_credentials


class InputError(ValueError):
    """Bad input: a wrong setting, a missing or damaged file. Its text is the one line that the user reads, in which
    URLs have no passwords."""

    def __init__(self, text: str) -> None:
        super().__init__(without_credentials(text))


@contextmanager
def named(setting: str) -> Iterator[None]:
    """Puts ``setting`` in front of an error that knows the file, but not who asked for it; never twice."""
    try:
        yield
    except InputError as error:
        raise error if str(error).startswith(f"{setting}: ") else InputError(f"{setting}: {error}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """``word``'s nearest neighbour among ``known`` as a hint such as ``; did you mean 'rank'?``, or ''."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
