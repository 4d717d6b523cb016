"""Whether plain values are what a dataclass of settings declares: every level, before anything is built.

In: a dataclass, and values as YAML or JSON gives them. Out: nothing, or an InputError that names the key.
Always: a setting without `| None` in its type takes no null; a number is finite and no boolean; a text can be
written down again.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from common.errors import InputError, nearest
from common.urls import without_credentials

LARGEST_INTEGER = 2**63 - 1
"""what arrays, files and other programs can hold"""

_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_section(section: type, values: Any, where: str, key: str = "") -> None:
    """Raises InputError unless ``values`` are settings of the dataclass ``section``, which stands under ``key``.

    ``where`` is the beginning of the message: the file's name or the flag.
    """
    hints = typing.get_type_hints(section)
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: {_about(key)} holds settings ({', '.join(hints)}); it is {shown(values)}")
    for name, value in values.items():
        path = f"{key}.{name}" if key else str(name)
        if name not in hints:
            raise InputError(f"{where}: unknown key '{shortened(path)}'{suggestion(section, name, key)}")
        check_value(hints[name], value, where, path)


def check_complete(section: type, values: Mapping[str, Any], where: str) -> None:
    """Raises InputError unless every setting of the dataclass ``section`` that has no default is among ``values``."""
    for entry in dataclasses.fields(section):
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if required and entry.name not in values:
            raise InputError(f"{where}: '{entry.name}' is missing")


def check_value(hint: Any, value: Any, where: str, key: str) -> None:
    """Raises InputError unless ``value`` is of the type ``hint``; ``key`` names it."""
    if any(_fits(alternative, value) for alternative in alternatives_of(hint)):
        _check_inside(hint, value, where, key)
        return
    if value is None:
        raise InputError(f"{where}: {_about(key)} is empty (null); say {wanted(hint)}, or leave the key out")
    section = section_of(hint) if not isinstance(value, Mapping | list) else None
    holds = f" ({', '.join(typing.get_type_hints(section))})" if section is not None else ""
    raise InputError(f"{where}: {_about(key)} must be {wanted(hint)}{holds}, is {shown(value)}")


def suggestion(section: type, name: Any, key: str) -> str:
    """The hint at the setting of ``section``, which stands under ``key``, that ``name`` is most like."""
    prefix = f"{key}." if key else ""
    return nearest(f"{prefix}{name}"[:200], [f"{prefix}{known}" for known in typing.get_type_hints(section)])


def section_of(hint: Any) -> type | None:
    """The dataclass that ``hint`` is, or holds as in ``list[Source]`` or ``Source | None``; else None."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((found for inner in typing.get_args(hint) if (found := section_of(inner)) is not None), None)


def alternatives_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or ``hint`` alone."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def shown(value: Any) -> str:
    """``value`` for a message: short, and with its kind where that is what is wrong."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"the text '{shortened(value)}'"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"a number of {round(value.bit_length() * math.log10(2))} digits"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shortened(str(value))


def shortened(text: str) -> str:
    """At most 120 characters of ``text``, each of which can be printed; URLs without what a cut would hide halfway."""
    text = without_credentials(text)
    printable = text[:120].encode("utf-8", "backslashreplace").decode()
    return printable if len(text) <= 120 else f"{printable}..."


def _fits(hint: Any, value: Any) -> bool:
    """Whether ``value`` is of the kind ``hint``; what a list or a mapping holds is looked at later."""
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    if typing.get_origin(hint) is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (bool, int, str):
        return type(value) is hint
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    kind = typing.get_origin(hint) or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _check_inside(hint: Any, value: Any, where: str, key: str) -> None:
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise InputError(f"{where}: {_about(key)} is {shown(value)}; no setting is so large")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {_about(key)} must be a finite number, is {value}")
    if isinstance(value, str):
        _check_text(value, where, key)
    elif isinstance(value, Mapping):
        section = next((each for each in alternatives_of(hint) if dataclasses.is_dataclass(each)), None)
        if section is not None:
            check_section(typing.cast(type, section), value, where, key)
            return
        inner = _inner(hint, 1)
        for name, item in value.items():
            if not isinstance(name, str):
                raise InputError(f"{where}: {_about(key)} has the key {shown(name)}; its keys must be words")
            _check_text(name, where, key)
            check_value(inner, item, where, f"{key}.{shortened(name)}")
    elif isinstance(value, list | tuple):
        inner = _inner(hint, 0)
        for number, item in enumerate(value):
            check_value(inner, item, where, f"{key}[{number}]")


def _check_text(text: str, where: str, key: str) -> None:
    if "\0" in text:
        raise InputError(f"{where}: {_about(key)} contains a NUL character; no text here may")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{where}: {_about(key)} is not valid UTF-8: '{shortened(text)}'") from None


def _inner(hint: Any, position: int) -> Any:
    """The type of the items of the list or mapping that ``hint`` is or may be; Any where it is not said."""
    for alternative in alternatives_of(hint):
        arguments = typing.get_args(alternative)
        if typing.get_origin(alternative) in (list, dict) and len(arguments) > position:
            return arguments[position]
    return Any


def wanted(hint: Any) -> str:
    """What would be right, in words."""
    choices: list[str] = []
    for alternative in alternatives_of(hint):
        if alternative is type(None):
            choices.append("null")
        elif typing.get_origin(alternative) is typing.Literal:
            choices += [str(choice) for choice in typing.get_args(alternative)]
        elif alternative in _WORDS:
            choices.append(_WORDS[alternative])
        elif typing.get_origin(alternative) is list:
            choices.append("a list")
        else:
            choices.append("a mapping of settings")
    return ", ".join(choices[:-1]) + (" or " if len(choices) > 1 else "") + choices[-1]


def _about(key: str) -> str:
    return f"'{shortened(key)}'" if key else "the file"
