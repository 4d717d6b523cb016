"""The user's evaluation command: a line of shell in which {run}, {checkpoint} and {step} stand for a checkpoint's own.

In: the template. Out: shell code without any value in it; the values lie in the command's environment.
Always: one pass over the template, so that no value is looked at again; each place becomes an expansion that the shell
takes for exactly one piece of text, however the template quotes around it.
"""

import re
import shlex
import subprocess
from pathlib import Path

from common.errors import InputError
from common.typed import shortened

VARIABLES = {"{run}": "PRETRAIN_RUN", "{checkpoint}": "PRETRAIN_CHECKPOINT", "{step}": "PRETRAIN_STEP"}
"""places of a template, and what holds their values in the command's environment"""
SHELL = "/bin/sh"

_WORD = r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|[^\s'\"])+"
READ_AGAIN = (
    re.compile(rf"(?:^|\s)(?:-[A-Za-z]{{0,3}}[ce]|--(?:wrap|command|eval|exec))[\s=]+({_WORD})"),
    re.compile(r"(?:^|[\s;&|(`])(?:eval|ssh|su|trap|watch|xargs|parallel)\s(.*)", re.DOTALL),
)
"""commands that give their argument, the group, to another interpreter, which would run a value as code"""
INTO_A_SHELL = re.compile(r"\|\s*(?:[^\s|]*/)?(?:[bdkz]|da|fi)?(?:sh|ash)(?:\s+-[^\s|]*)*\s*(?:$|[;&|)<>`\n])")
"""likewise, what stands before it"""
HERE_DOCUMENT = re.compile(r"<<<|<<-?\s*['\"\\A-Za-z_]")


def shell_code(template: str) -> str:
    """The template with an expansion in every place."""
    code = ""
    quotes = [""]
    at = 0
    while at < len(template):
        place = next((name for name in VARIABLES if template.startswith(name, at)), None)
        if place is not None:
            code += _expansion(VARIABLES[place], quotes[-1])
            at += len(place)
            continue
        length = _step(template, at, quotes)
        code += template[at : at + length]
        at += length
    return code


def _expansion(variable: str, quote: str) -> str:
    if quote == '"':
        return f"${{{variable}}}"
    inside = f'"${{{variable}}}"'
    return f"'{inside}'" if quote == "'" else inside


def _step(template: str, at: int, quotes: list[str]) -> int:
    """How many characters belong together at ``at``.

    ``quotes`` is a stack of what ends what has been opened: a quote, or a command within ``$( )`` or backticks.
    """
    inside, letter = quotes[-1], template[at]
    if inside == "'":
        if letter == "'":
            quotes.pop()
        return 1
    if letter == "\\":
        return 2
    if template.startswith("$(", at):
        quotes.append(")")
        return 2
    if letter == "`" or letter == '"':
        quotes.pop() if inside == letter else quotes.append(letter)
    elif inside == '"':
        return 1
    elif letter == "'":
        quotes.append(letter)
    elif letter == "(":
        quotes.append(")")
    elif inside == letter == ")":
        quotes.pop()
    elif letter == "#" and (at == 0 or template[at - 1] in " \t\n;&|("):
        return len(template[at:].partition("\n")[0])
    return 1


def check_command(template: str, run_folder: Path) -> None:
    """Refuses a template that is no shell code, and one that would hand the folder's name to a second interpreter.

    Raises:
        InputError: one line that says what is right.
    """
    name = str(run_folder)
    places = [place for place in VARIABLES if place in template]
    if places and HERE_DOCUMENT.search(template):
        raise InputError(
            f"evaluation.command: has a here-document; write ${VARIABLES[places[0]]} instead of {places[0]} in "
            f"{shortened(template)}"
        )
    try:
        code = shell_code(template).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InputError(f"evaluation.command: is no text: {shortened(template)}") from None
    checked = subprocess.run([SHELL, "-n"], input=code, capture_output=True, check=False)
    if b"\0" in code or checked.returncode != 0:
        said = " ".join(checked.stderr.decode(errors="replace").split()) or "a NUL"
        raise InputError(f"evaluation.command: the shell does not take it ({said}): {shortened(template)}")
    again = [text for pattern in READ_AGAIN for text in pattern.findall(template)]
    again += [template[: match.start()] for match in INTO_A_SHELL.finditer(template)]
    named = [place for place in ("{run}", "{checkpoint}") if any(place in text for text in again)]
    if named and shlex.quote(name) != name:
        raise InputError(
            f"evaluation.command: hands {named[0]} to a second shell or interpreter, which would read the name of the "
            f"folder {name!r} as code; write ${VARIABLES[named[0]]} there, or name the folder with letters and digits"
        )
