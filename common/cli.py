"""The command line of every room: dataclasses become flags, bad input becomes one line and exit status 2.

In: the arguments and a config dataclass (or a plain function for sub-commands). Out: a checked, frozen config.
Always: an unknown key is an error that names the nearest known one; no traceback without ``--debug``.
"""

import dataclasses
import re
import sys
import typing
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from common.errors import InputError, nearest

Config = TypeVar("Config")


def run_command(main: Callable[[list[str]], int | None], arguments: list[str], quiet: bool = False) -> int:
    """Runs ``main(arguments)`` and turns what the user can mend into one line on standard error.

    Returns the exit status: 2 for bad input, else what ``main`` returned. ``--debug`` anywhere in the
    arguments lets the traceback through; ``quiet`` is for all ranks but one.
    """
    debug = "--debug" in arguments
    try:
        return main([argument for argument in arguments if argument != "--debug"]) or 0
    except InputError as error:
        if debug:
            raise
        if not quiet:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2


def parse_config(config_class: type[Config], arguments: Sequence[str], program: str, description: str = "") -> Config:
    """Builds ``config_class`` from ``--config FILE`` and ``--section.key value`` overrides, later ones winning.

    ``config_class`` is a frozen dataclass of dataclasses whose attribute docstrings are the help texts.

    Raises:
        InputError: unknown key, wrong type, missing key or unreadable file.
    """
    parser = config_parser(config_class, program, description)
    _refuse_unknown_keys(config_class, arguments)
    try:
        parsed = parser.instantiate(parser.parse_args(list(arguments)))
    except ArgumentError as error:
        raise InputError(_one_line(error)) from None
    return _build(config_class, parsed)


def config_from_values(config_class: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Builds ``config_class`` from nested values, as a saved config holds them; ``where`` names their file.

    Raises:
        InputError: unknown key or wrong type.
    """
    _check_mapping(config_class, values, where)
    parser = config_parser(config_class, program="")
    try:
        parsed = parser.instantiate(parser.parse_object(dict(values)))
    except ArgumentError as error:
        raise InputError(f"{where}: {_one_line(error)}") from None
    return _build(config_class, parsed)


def config_parser(config_class: type, program: str, description: str = "") -> ArgumentParser:
    """The parser behind ``parse_config``; it also serves ``--help`` and ``--print_config``."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; --section.key value overrides what it says")
    parser.add_class_arguments(config_class)
    return parser


def to_yaml(config: Any) -> str:
    """``config`` as the YAML that ``--config`` reads back to an equal value."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False, width=120)


def _build(config_class: type[Config], parsed: Mapping[str, Any]) -> Config:
    return config_class(**{field.name: parsed[field.name] for field in dataclasses.fields(config_class)})  # type: ignore[arg-type]


def _refuse_unknown_keys(config_class: type, arguments: Sequence[str]) -> None:
    """Looks at every key before the parser does, because the parser does not name the nearest known key."""
    expects_file = False
    for argument in arguments:
        if expects_file or argument.startswith("--config="):
            path = Path(argument.removeprefix("--config="))
            _check_mapping(config_class, _read_yaml(path), str(path))
            expects_file = False
        elif argument == "--config":
            expects_file = True
        elif argument.startswith("--"):
            flag = argument.removeprefix("--").partition("=")[0].rstrip("+")
            if flag not in {"help", "print_config"} and not flag.endswith(".help"):
                _check_path(config_class, flag)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"--config {path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: expected a mapping of settings, found {type(content).__name__}")
    return content


def _check_mapping(config_class: type, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    hints = typing.get_type_hints(config_class)
    for key, value in values.items():
        if key not in hints:
            raise InputError(f"{where}: unknown key '{prefix}{key}'{_suggestion(config_class, key, prefix)}")
        section = _dataclass_of(hints[key])
        items = value if isinstance(value, list) else [value]
        for item in items:
            if section is not None and isinstance(item, Mapping):
                _check_mapping(section, item, where, f"{prefix}{key}.")


def _check_path(config_class: type, flag: str) -> None:
    section: type | None = config_class
    prefix = ""
    for part in flag.split("."):
        if section is None:  # a plain value, or a mapping with free keys
            return
        hints = typing.get_type_hints(section)
        if part not in hints:
            raise InputError(f"--{flag}: unknown key '{prefix}{part}'{_suggestion(section, part, prefix)}")
        section = _dataclass_of(hints[part])
        prefix += f"{part}."


def _suggestion(section: type, key: str, prefix: str) -> str:
    return nearest(f"{prefix}{key}", [f"{prefix}{name}" for name in typing.get_type_hints(section)])


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass that ``hint`` is, or holds as in ``list[Source]`` or ``Source | None``; else None."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((found for inner in typing.get_args(hint) if (found := _dataclass_of(inner)) is not None), None)


def _one_line(error: ArgumentError) -> str:
    """The parser's message with the key first: "--train.steps: expected an int, got 'many'"."""
    text = " ".join(str(error).split())
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal[", "one of [")
    key, separator, rest = text.removeprefix("Parser key ").partition(": ")
    return f"--{key.strip(chr(34))}: {rest}" if separator and text.startswith("Parser key ") else text
