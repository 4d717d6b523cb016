"""Flags of a command that has no config of its own, with one-line errors.

In: argparse's own calls. Out: a namespace. Always: a wrong flag is an InputError and never a page of usage.
"""

import argparse
from typing import NoReturn

from common.errors import InputError


class FlagParser(argparse.ArgumentParser):
    """argparse, whose errors go the way of all bad input; names are not completed."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raises InputError with the command in front."""
        raise InputError(f"{self.prog}: {message}; --help tells all flags")
