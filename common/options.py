"""How options are spelled: `--run-dir`, with hyphens; a setting inside a section by its key, `--model.num_layers`.

In: names of settings, and arguments as they were typed. Out: the options' one spelling, or the keys. Always: an
underscore that was typed is read as a hyphen, so that a key can be copied from a YAML file; what follows `--` and the
values of options stay as they are.
"""

import re
from collections.abc import Callable, Sequence

_UNDERSCORED = re.compile(r"--[a-z0-9]+(?:_[a-z0-9]+)+(?!\w|\.\w)")


def option(key: str) -> str:
    """The option that gives the setting ``key``."""
    return f"--{key if '.' in key else key.replace('_', '-')}"


def spelled(text: str) -> str:
    """``text`` of equal length in which every option has its spelling, however it was made from keys."""
    return _UNDERSCORED.sub(lambda found: option(found[0].removeprefix("--")), text)


def hyphenated(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with every option in its spelling."""
    return _with_names(arguments, lambda name: option(name).removeprefix("--"))


def as_keys(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with the key of its setting in the place of each option."""
    return _with_names(arguments, lambda name: name if "." in name else name.replace("-", "_"))


def _with_names(arguments: Sequence[str], change: Callable[[str], str]) -> list[str]:
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return [*(_with_name(argument, change) for argument in arguments[:end]), *arguments[end:]]


def _with_name(argument: str, change: Callable[[str], str]) -> str:
    if not argument.startswith("--"):
        return argument
    name, separator, value = argument.removeprefix("--").partition("=")
    return f"--{change(name)}{separator}{value}"
