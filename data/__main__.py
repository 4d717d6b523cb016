"""The data room's command line: `python -m data prepare | ...`.

In: a sub-command and its flags. Out: token shards, or an answer about them. Always: bad input is one line and
exit status 2.
"""

import json
import sys
from collections.abc import Callable

from common.cli import parse_config, run_command
from common.errors import InputError, nearest
from common.files import finite

Command = Callable[[list[str]], int | None]


def main(arguments: list[str]) -> int | None:
    """Runs the sub-command that ``arguments`` begin with."""
    commands: dict[str, Command] = {
        "prepare": _prepare,
        "adopt": _adopt,
        "lengths": _lengths,
        "show": _show,
        "plan": _plan,
        "verify": _verify,
        "trace": _trace,
    }
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
    """Text to token shards."""
    from data.prepare import PrepareConfig, prepare, print_summary

    config = parse_config(PrepareConfig, _join_lists(arguments, "--input"), "python -m data prepare")
    print_summary(config.output, prepare(config))


def _adopt(arguments: list[str]) -> None:
    """Existing flat token files as shards, in place."""
    from data.adopt import AdoptConfig, adopt

    config = parse_config(AdoptConfig, _join_lists(arguments, "--input"), "python -m data adopt")
    manifest = adopt(config)
    print(
        f"{manifest.documents:,} documents, {manifest.tokens:,} tokens of {manifest.dtype} in {len(manifest.shards)} "
        f"file(s), adopted by {config.output}"
    )


def _lengths(arguments: list[str]) -> None:
    """Token shards sorted into classes of document lengths."""
    from data.lengths import LengthsConfig, print_classes, sort_by_length

    config = parse_config(LengthsConfig, arguments, "python -m data lengths")
    print_classes(config, sort_by_length(config))


def _show(arguments: list[str]) -> None:
    """A few stretches of token shards as text, with the borders of documents."""
    from data.show import ShowConfig, show

    if arguments and not arguments[0].startswith("-"):
        arguments = [f"--folder={arguments[0]}", *arguments[1:]]
    for line in show(parse_config(ShowConfig, arguments, "python -m data show FOLDER")):
        print(line)


def _plan(arguments: list[str]) -> int:
    """What a run will see, and whether its data is all right."""
    from data.outlook import outlook_of, print_outlook
    from data.run_order import RunOrder, parse_run_order

    config = parse_run_order(RunOrder, _flag(arguments, "--json"), "python -m data plan")
    outlook = outlook_of(config)
    if config.json:
        print(json.dumps(finite(outlook.as_dict()), indent=1))
    else:
        print_outlook(outlook)
    return 2 if outlook.problems else 0


def _verify(arguments: list[str]) -> int:
    """Every byte of token shards against its checksum."""
    from data.verify import VerifyConfig, print_verdicts, verify

    arguments = _join_lists(_flag(arguments, "--json"), "--input")
    config = parse_config(VerifyConfig, arguments, "python -m data verify")
    verdicts = verify(config)
    if config.json:
        print(json.dumps([verdict.as_dict() for verdict in verdicts], indent=1))
    else:
        print_verdicts(verdicts)
    return 0 if all(verdict.is_whole for verdict in verdicts) else 2


def _trace(arguments: list[str]) -> None:
    """Which steps saw, or will see, a token, a document or a text."""
    from data.run_order import parse_run_order
    from data.trace import TraceConfig, as_dicts, print_sightings, trace

    config = parse_run_order(TraceConfig, _flag(arguments, "--json"), "python -m data trace")
    sightings = trace(config)
    if config.json:
        print(json.dumps(as_dicts(sightings), indent=1))
    else:
        print_sightings(config, sightings)


def _flag(arguments: list[str], flag: str) -> list[str]:
    """A bare ``flag`` as the ``flag=true`` that the parser reads."""
    return [f"{flag}=true" if argument == flag else argument for argument in arguments]


def _join_lists(arguments: list[str], flag: str) -> list[str]:
    """``--input a b`` and ``--input=a`` as the ``--input=[a, b]`` that the parser reads."""
    joined: list[str] = []
    values: list[str] = []
    inside = False
    for argument in arguments:
        if argument.startswith(f"{flag}=") and not argument.startswith(f"{flag}=["):
            inside = False
            values.append(argument.removeprefix(f"{flag}="))
            continue
        if argument == flag or argument.startswith("--"):
            inside = argument == flag
        elif inside:
            values.append(argument)
        if not inside:
            joined.append(argument)
    return [f"{flag}={json.dumps(values)}", *joined] if values else joined


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
