"""The data room's command line: `python -m data prepare | ...`.

In: a sub-command and its flags. Out: token shards, or an answer about them. Always: bad input is one line and
exit status 2.
"""

import json
import sys
from collections.abc import Callable

from common.cli import parse_config, run_command
from common.errors import InputError, nearest

Command = Callable[[list[str]], int | None]


def main(arguments: list[str]) -> int | None:
    """Runs the sub-command that ``arguments`` begin with."""
    commands = {"prepare": _prepare}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m data COMMAND [--help]\n")
        for name, command in commands.items():
            print(f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}")
        return 0
    name, *rest = arguments
    if name not in commands:
        raise InputError(f"unknown command '{name}': one of {', '.join(commands)}{nearest(name, commands)}")
    return commands[name](rest)


def _prepare(arguments: list[str]) -> None:
    """turns text into token shards"""
    from data.prepare import PrepareConfig, prepare, print_summary

    config = parse_config(PrepareConfig, _join_lists(arguments, "--input"), "python -m data prepare")
    print_summary(config.output, prepare(config))


def _join_lists(arguments: list[str], flag: str) -> list[str]:
    """``--input a b`` as the ``--input=[a, b]`` that the parser reads."""
    joined: list[str] = []
    values: list[str] = []
    inside = False
    for argument in arguments:
        if argument == flag or argument.startswith("--"):
            inside = argument == flag
        elif inside:
            values.append(argument)
        if not inside:
            joined.append(argument)
    return [f"{flag}={json.dumps(values)}", *joined] if values else joined


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
