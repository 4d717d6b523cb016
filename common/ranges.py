"""Ranges of settings: what has no meaning is refused by name when a section is built, whoever builds it.

In: a section of settings, its name, names of its numbers and their bounds. Out: nothing, or an InputError.
Always: the message names the setting, its value and the bound that it misses; NaN lies in no range.
"""

import operator
import os
import re
import unicodedata
from typing import Any

from common.errors import InputError
from common.options import option

MOST_STEPS = 10**9
"""more than any run takes; samples and tokens still fit into 64 bits"""
MOST_TOKENS = 10**17
LONGEST_SEQUENCE = 2**27
LARGEST_SEED = 2**63 - 1
"""what torch's generators take"""
LONGEST_WAIT = 1e8
"""seconds: three years, and no more than the system's clocks can wait for"""
MOST_PROCESSES = 2**16
LONGEST_NAME = 255
"""bytes of one name in a path"""
MOST_WORKERS = 4096
"""processes, threads or connections on one machine"""


def check_range(
    section: Any,
    where: str,
    *names: str,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    """Raises InputError unless each attribute of ``section`` in ``names`` is within the bounds, or None, or a list of
    such values.

    ``low`` and ``high`` belong to the range, ``above`` and ``below`` do not. ``where`` stands before the name in the
    message, as in "train." or "--".
    """
    for name in names:
        _check_value(getattr(section, name), _told(where, name), low, above, high, below)


def _told(where: str, name: str) -> str:
    """The setting as messages name it: an option, or ``where`` and its key."""
    return option(name) if where == "--" else f"{where}{name}"


def _check_value(
    value: Any, name: str, low: float | None, above: float | None, high: float | None, below: float | None
) -> None:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list):
            _check_value(item, name, low, above, high, below)
            continue
        if item is None:
            continue
        missed = [
            f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}"
            for word, bound, holds in (
                ("at least", low, operator.ge),
                ("above", above, operator.gt),
                ("at most", high, operator.le),
                ("below", below, operator.lt),
            )
            if bound is not None and not holds(item, bound)
        ]
        if missed:
            raise InputError(f"{name}: must be {' and '.join(missed)}, is {item}")


def check_place(section: Any, where: str, *names: str) -> None:
    """Raises InputError if one of these paths, which are written to, has a line break or another control character.

    It would break the lines of messages, records and scripts in which the path stands.
    """
    for name in names:
        for letter in str(getattr(section, name) or ""):
            if unicodedata.category(letter) in ("Cc", "Zl", "Zp"):
                raise InputError(
                    f"{_told(where, name)}: has the character {letter!r}; name a place without control characters"
                )


def check_name(section: Any, where: str, name: str) -> None:
    """Raises InputError unless all characters of this name, if there is one, or of these names can be seen when they
    are printed."""
    text: str = "".join(getattr(section, name) or "")
    unseen = next((letter for letter in text if not letter.isprintable()), None)
    if unseen is not None:
        raise InputError(f"{_told(where, name)}: has the character {unseen!r}; use letters, digits, blanks and -._")


def check_license(section: Any, where: str) -> None:
    """Raises InputError unless its `license`, if any, is a word as hubs of models list them."""
    text: str | None = section.license
    if text is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,59}", text):
        raise InputError(f"{_told(where, 'license')}: must be a word as in apache-2.0 or cc-by-4.0, is {text!r:.80}")


def check_any(section: Any, where: str, *names: str) -> None:
    """Raises InputError if one of these lists is empty."""
    for name in names:
        if not getattr(section, name):
            raise InputError(f"{_told(where, name)}: is empty; name at least one, or leave it out")


def check_filled(section: Any, where: str, *names: str) -> None:
    """Raises InputError if one of these names or paths is empty, or longer than any file's may be.

    None at all is said by leaving the setting out.
    """
    for name in names:
        value = getattr(section, name)
        if value is not None and not value.strip():
            raise InputError(f"{_told(where, name)}: is empty; name something, or leave it out")
        parts = value.split("/") if value is not None and "://" not in value else []
        longest = max((len(os.fsencode(part)) for part in parts), default=0)
        if longest > LONGEST_NAME:
            raise InputError(
                f"{_told(where, name)}: a name of {longest} bytes; file systems take at most {LONGEST_NAME}"
            )
