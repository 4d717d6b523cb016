"""A part of a page that a command writes, between two marks that readers do not see.

In: a page with `<!-- NAME: begin -->` and `<!-- NAME: end -->`, lines. Out: the page with these lines between them.
Always: all else on the page stays as it is; a page without the marks is refused, not guessed at.
"""

from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError
from common.files import write_atomically


def write_between_marks(page: Path, name: str, lines: Sequence[str]) -> None:
    """Puts ``lines`` where the marks ``name`` are.

    Raises:
        InputError: the page or its marks are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if not page.is_file():
        raise InputError(f"{page}: no such page; it has to be there, with the lines '{begin}' and '{end}'")
    before, found_begin, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise InputError(f"{page}: lacks the lines '{begin}' and '{end}', between which the table goes")
    write_atomically(page, before + "\n".join([begin, *lines, end]) + after)
