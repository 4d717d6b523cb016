"""Values as `#SBATCH` lines take them, which sbatch reads by rules that are nearly, and not quite, the shell's.

In: a value of a setting. Out: the text that stands for exactly this value, or an InputError.
Always: no value ends its line, its word, or becomes an option, a comment or a replacement symbol.
"""

import re
import shlex
from pathlib import Path

from common.errors import InputError

LONGEST_LINE = 4000
"""bytes of one value; sbatch reads a line into 8192"""


def directive(name: str, value: str, setting: str) -> str:
    """``--name=value`` for an `#SBATCH` line; ``setting`` is named where no line can hold the value."""
    return f"--{name}={word(value, setting)}"


def word(value: str, setting: str) -> str:
    """``value`` as one word of an `#SBATCH` line.

    sbatch takes a backslash for an escape even between single quotes, where the shell does not.
    """
    check_line(value, setting)
    return shlex.quote(value.replace("\\", "\\\\"))


def log_pattern(path: Path, setting: str) -> str:
    """``path`` as sbatch's --output takes it, where `%` begins a replacement symbol."""
    if "\\" in str(path):
        raise InputError(f"{setting}: has a backslash, which Slurm takes out of the name of its log: {str(path)!r}")
    return str(path).replace("%", "%%")


def check_line(value: str, setting: str) -> None:
    """Refuses what no line of a script can hold."""
    found = re.search(r"[\x00-\x1f\x7f\u0085\u2028\u2029\ud800-\udfff]", value)
    if found:
        raise InputError(f"{setting}: has the character {found.group()!r}, which a job script cannot hold: {value!r}")
    if len(value.encode()) > LONGEST_LINE:
        raise InputError(f"{setting}: has {len(value.encode())} bytes; sbatch takes lines of {LONGEST_LINE}")


def check_argument(value: str, setting: str) -> None:
    """Refuses what no argument of a command can hold."""
    found = re.search(r"[\x00\ud800-\udfff]", value)
    if found:
        raise InputError(f"{setting}: has the character {found.group()!r}, which a job script cannot hold: {value!r}")
