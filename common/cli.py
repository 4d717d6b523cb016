"""The command line of every room: dataclasses become flags, bad input becomes one line and exit status 2.

In: the arguments and a config dataclass (or a plain function for sub-commands). Out: a checked, frozen config.
Always: an unknown key is an error that names the nearest known one; no traceback without ``--debug``.
"""

import copy
import dataclasses
import os
import re
import signal
import stat
import sys
import traceback
import typing
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from common.errors import InputError
from common.options import as_keys, option, spelled
from common.output import in_words, is_broken_pipe, patient_output, say
from common.strict_yaml import load_yaml, read_yaml
from common.typed import alternatives_of, check_section, check_value, section_of, shortened, suggestion
from common.urls import values_with_references, without_credentials

Config = TypeVar("Config")

LONGEST_LINE = 1200
"""characters of a message"""


def run_command(
    main: Callable[[list[str]], int | None], arguments: list[str], quiet: bool = False, training: bool = False
) -> int:
    """Runs ``main(arguments)`` and turns what the user can mend into one line on standard error.

    Returns the exit status: 2 for bad input, a full disk and the like, 130 after Ctrl-C, 141 where the reader of the
    output went away, else what ``main`` returned. ``--debug`` anywhere in the arguments lets the traceback through;
    ``quiet`` is for all ranks but one. ``training`` is for what outlives the machine's moods: output that is lost does
    not change its status, and an error of the machine stays an accident, after which the launcher tries again.

    Whatever the umask was, no file or folder that is made from here on can be written by everyone.
    """
    sys.excepthook = _print_shown  # what ends the program goes through the interpreter, not through here
    os.umask(os.umask(0) | stat.S_IWOTH)  # what everyone may write to, another user can plant links in
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    with patient_output(lambda error: training or not is_broken_pipe(error), is_data=not training) as output:
        try:
            status = main(rest) or 0
        except InputError as error:
            if debug:
                raise
            return _refuse(str(error), quiet)
        except KeyboardInterrupt:
            if debug:
                raise
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who presses again does not want to wait
            if not quiet:
                say("interrupted; what was finished is kept")
            return 128 + signal.SIGINT
        except OSError as error:
            if debug or training:
                raise
            return _refuse(in_words(error), quiet)
        except SystemExit as ending:  # --help and the like
            if not isinstance(ending.code, int | None):
                raise
            status = ending.code or 0
        output.flush()
        if status or training or output.error is None:
            return status
        return 128 + signal.SIGPIPE if is_broken_pipe(output.error) else 2


def _print_shown(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A traceback as Python prints it, but that URLs have no passwords."""
    say(without_credentials("".join(traceback.format_exception(kind, error, trace)).rstrip("\n")))


def _refuse(message: str, quiet: bool) -> int:
    if not quiet:
        text = " ".join(message.split())
        say(f"error: {text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + '...'}")
    return 2


def parse_config(config_class: type[Config], arguments: Sequence[str], program: str, description: str = "") -> Config:
    """Builds ``config_class`` from ``--config FILE`` and ``--section.key value`` overrides, later ones winning.

    ``config_class`` is a frozen dataclass of dataclasses whose attribute docstrings are the help texts.

    Raises:
        InputError: unknown key, a key written twice, wrong type, missing key or unreadable file.
    """
    parser = config_parser(config_class, program, description)
    named = as_keys(arguments)
    _check_arguments(config_class, named)
    try:
        parsed = parser.instantiate(parser.parse_args(named))
    except InputError:
        raise
    except (ArgumentError, ValueError) as error:
        raise InputError(_one_line(error)) from None
    return _build(config_class, parsed)


def config_from_values(config_class: type[Config], values: Mapping[str, Any], where: str) -> Config:
    """Builds ``config_class`` from nested values, as a saved config holds them; ``where`` names their file.

    Raises:
        InputError: unknown key or wrong type.
    """
    check_section(config_class, values, where)
    parser = config_parser(config_class, program="")
    try:
        # A copy: the parser writes into what it is given.
        parsed = parser.instantiate(parser.parse_object(copy.deepcopy(dict(values))))
    except InputError:
        raise
    except (ArgumentError, ValueError) as error:
        raise InputError(f"{where}: {_one_line(error)}") from None
    return _build(config_class, parsed)


class _Parser(ArgumentParser):
    """jsonargparse's parser, which names options by their keys, with a help that spells them as all others."""

    def format_help(self, *settings: Any, **named: Any) -> str:
        """The page that ``--help`` prints."""
        return spelled(super().format_help(*settings, **named))


def config_parser(config_class: type, program: str, description: str = "") -> ArgumentParser:
    """The parser behind ``parse_config``; it also serves ``--help`` and ``--print-config``."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = _Parser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; --section.key value overrides what it says")
    parser.add_class_arguments(config_class)
    return parser


def to_yaml(config: Any) -> str:
    """``config`` as the YAML that ``--config`` reads back to an equal value, but that URLs name variables of the
    environment for what gives access."""
    return yaml.dump(values_with_references(dataclasses.asdict(config)), Dumper=_Dumper, sort_keys=False, width=120)


_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
_RULES = yaml.SafeDumper.yaml_implicit_resolvers


class _Dumper(yaml.SafeDumper):
    """Quotes text that the parser would take for a number, as in 1e5, and YAML's own rules would not."""

    yaml_implicit_resolvers = _RULES | {
        first: [*_RULES.get(first, []), ("tag:yaml.org,2002:float", _EXPONENT)] for first in "-+0123456789"
    }


def _build(config_class: type[Config], parsed: Mapping[str, Any]) -> Config:
    return config_class(**{field.name: parsed[field.name] for field in dataclasses.fields(config_class)})  # type: ignore[arg-type]


def _check_arguments(config_class: type, arguments: Sequence[str]) -> None:
    """Looks at every key and value before the parser does: it takes null for a number, keeps the last of two equal
    keys, does not name the nearest known key, and lets a file take back in silence what was said before it."""
    rest = iter(arguments)
    said: list[str] = []
    for argument in rest:
        if not argument.startswith("--"):
            continue  # the parser refuses it
        flag, separator, text = argument.removeprefix("--").partition("=")
        if flag in {"help", "print_config"} or flag.endswith(".help"):
            continue
        value = text if separator else next(rest, None)
        if flag == "config":
            if value is not None:
                _check_file(config_class, value, said)
            continue
        said.append(flag.removesuffix("+"))
        hint = _hint_of(config_class, flag.removesuffix("+"))
        if value is not None:
            _check_flag(hint, flag, value)


def _check_file(config_class: type, name: str, said: Sequence[str]) -> None:
    """``said``: the settings that stand before the file, and would be overridden by it."""
    what = f"--config {shortened(name)}"
    content = read_yaml(Path(name), what)
    if not isinstance(content, dict):
        raise InputError(f"{what}: expected a mapping of settings, found {type(content).__name__}")
    check_section(config_class, content, what)
    for flag in said:
        if _says(content, flag.split(".")):
            raise InputError(f"{what}: says {flag}, too, and stands after {option(flag)}; name the file first")


def _says(content: Any, keys: Sequence[str]) -> bool:
    """Whether a value stands at ``keys``."""
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _check_flag(hint: Any, flag: str, text: str) -> None:
    """``text`` is YAML unless the setting is a text, or may be one."""
    kinds = alternatives_of(hint)
    what = option(shortened(flag))
    value: Any = text
    if str not in kinds or (type(None) in kinds and text == "null"):
        value = load_yaml(text, what, flag.removesuffix("+"))
    if flag.endswith("+") and not isinstance(value, list):
        value = [value]
    check_value(hint, value, what, flag.removesuffix("+"))


def _hint_of(config_class: type, flag: str) -> Any:
    """The declared type of the setting that ``flag`` names; Any inside a mapping with free keys."""
    section: type | None = config_class
    hint: Any = config_class
    prefix = ""
    for part in flag.split("."):
        if section is None:
            return Any
        hints = typing.get_type_hints(section)
        if part not in hints:
            path = f"{prefix}.{part}" if prefix else part
            raise InputError(
                f"{option(shortened(flag))}: unknown key '{shortened(path)}'{suggestion(section, part, prefix)}"
            )
        hint = hints[part]
        section = section_of(hint)
        prefix = f"{prefix}.{part}" if prefix else part
    return hint


def _one_line(error: Exception) -> str:
    """The parser's message with the key first: "--train.steps: expected an int, got 'many'"."""
    text = " ".join(str(error).split())
    # Inside a list that may be null, what was wrong with an entry is one of several reasons.
    if refused := re.search(r"Errors: - (.*?) - Expected a <class 'NoneType'>", text):
        text = refused[1]
    text = re.sub(r"<class '(\w+)'>", r"\1", text).replace("a typing.Literal[", "one of [")
    key, separator, rest = text.removeprefix("Parser key ").partition(": ")
    return f"{option(key.strip(chr(34)))}: {rest}" if separator and text.startswith("Parser key ") else text
