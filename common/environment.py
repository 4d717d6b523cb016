"""Numbers that launchers put into the environment.

In: a variable's name. Out: its number, or an InputError of one line that names it.
"""

import os

from common.errors import InputError
from common.typed import shortened


def whole_number(name: str, default: int, low: int = 0) -> int:
    """The number in the variable ``name``, at least ``low``; ``default`` where there is no such variable.

    Raises:
        InputError: it holds something else.
    """
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= low):
        raise InputError(
            f"{name}: must be a whole number, {low} or more, is {shortened(text)!r}; launchers set it, you need not"
        )
    return int(text)
