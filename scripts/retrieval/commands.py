"""The project's own commands, each as a process.

In: arguments behind `python`. Out: what the command prints. Always: a command that failed ends the study.
"""

import subprocess
import sys
from collections.abc import Sequence

from common.errors import InputError


def run_command_line(arguments: Sequence[str]) -> None:
    """Runs ``python ARGUMENTS`` and shows what it prints.

    Raises:
        InputError: it ended with another status than 0.
    """
    print(f"$ python {' '.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, *arguments]).returncode
    if status:
        raise InputError(f"python {' '.join(arguments[:3])} ...: ended with status {status}")
