"""Flags of a command that has no config of its own, with one-line errors.

In: argparse's own calls. Out: a namespace. Always: a wrong flag is an InputError and never a page of usage.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from common.errors import InputError
from common.options import hyphenated


class FlagParser(argparse.ArgumentParser):
    """argparse, whose errors go the way of all bad input; names are not completed."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})  # type: ignore[arg-type]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does; an underscore in an option's name is read as a hyphen."""
        return super().parse_known_args(hyphenated(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        """Raises InputError with the command in front."""
        raise InputError(f"{self.prog}: {message}; --help tells all flags")
