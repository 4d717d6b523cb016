"""A site's further sbatch options: each entry is one option, whatever its value holds.

In: an entry such as `--exclusive`, `--comment=two words`, `--reservation big` or `-C "a100 | h100"`. Out: the option as
it stands on an `#SBATCH` line. Always: what the script itself says of the job cannot be said twice.
"""

import re
import shlex

from common.errors import InputError
from launch.slurm.quote import check_line, word

SAID_BY_THE_SCRIPT = {
    "partition": "site.partition",
    "account": "site.account",
    "qos": "site.qos",
    "time": "site.time_limit",
    "gpus-per-node": "site.gpus_per_node",
    "cpus-per-task": "site.cpus_per_task",
    "export": "site.pass_environment",
    "signal": "site.signal_seconds",
    "nodes": "--nodes",
    "job-name": "--name",
    "output": "--run-dir",
    "chdir": "the folder that you submit from",
}
"""sbatch's long options, and where their values come from"""
NEVER = {
    "ntasks": "each node has one task, which starts its ranks",
    "ntasks-per-node": "each node has one task, which starts its ranks",
    "ntasks-per-gpu": "each node has one task, which starts its ranks",
    "array": "the jobs of an array would all train in one run folder",
    "wrap": "it replaces the script",
    "requeue": "the script says it",
    "no-requeue": "the script requeues itself",
    "open-mode": "the log is appended to",
    "parsable": "it belongs to the command line",
    "test-only": "it belongs to the command line",
    "export-file": "it belongs to the command line",
    "wait": "it belongs to the command line",
    "help": "it submits nothing",
    "usage": "it submits nothing",
    "version": "it submits nothing",
}
SHORT = {
    "p": "partition",
    "A": "account",
    "q": "qos",
    "t": "time",
    "c": "cpus-per-task",
    "N": "nodes",
    "J": "job-name",
    "o": "output",
    "D": "chdir",
    "n": "ntasks",
    "a": "array",
    "W": "wait",
    "h": "help",
    "V": "version",
}


def option_line(option: str) -> str:
    """The option, its value quoted.

    Raises:
        InputError: no option, two of them, or one that the script sets itself.
    """
    check_line(option, "site.options")
    name, separator, value = _parts(option)
    long = SHORT.get(name[1:], "") if len(name) == 2 else name[2:]
    if long in SAID_BY_THE_SCRIPT:
        raise InputError(f"site.options: {name} is set by {SAID_BY_THE_SCRIPT[long]}, not by '{option}'")
    if long in NEVER:
        raise InputError(f"site.options: not '{option}': {NEVER[long]}")
    return name if value is None else f"{name}{separator}{word(value, 'site.options')}"


def _parts(option: str) -> tuple[str, str, str | None]:
    """Name, what stands between name and value, and the value, if any."""
    text = option.strip()
    found = re.fullmatch(r"(--[A-Za-z0-9][A-Za-z0-9-]*)(?:=(.*)|[ \t]+(.*))?|(-[A-Za-z0-9])[ \t]*(.*)", text, re.DOTALL)
    if found is None:
        raise InputError(f"site.options takes sbatch options such as --exclusive, not '{option}'")
    long, after_equals, after_blank, short, after_short = found.groups()
    value = after_equals if after_equals is not None else after_blank if long else after_short or None
    if value is None:
        return long or short, "", None
    unquoted = _unquoted(value)
    if unquoted is None and re.search(r"\s--?[A-Za-z]" if after_equals is not None else r"(^|\s)--?[A-Za-z]", value):
        raise InputError(f"site.options: '{option}' reads as two options; write each as an entry, or quote the value")
    exact = value if unquoted is None else unquoted
    return (long, "=", exact) if long else (short, " ", exact)


def _unquoted(value: str) -> str | None:
    """What a value in quotes, as a shell knows them, holds; None: it is not quoted."""
    if not value.startswith(("'", '"')):
        return None
    try:
        words = shlex.split(value)
    except ValueError:
        return None
    return words[0] if len(words) == 1 else None
