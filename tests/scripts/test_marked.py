"""What a command writes into a page that people write: only between its marks."""

from pathlib import Path

import pytest

from common.errors import InputError
from scripts.marked import write_between_marks

PAGE = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n<!-- b: begin -->\nother\n<!-- b: end -->\n"


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_between_marks(page, "a", ["new", "lines"])
    write_between_marks(page, "a", ["new", "lines"])
    assert page.read_text() == PAGE.replace("old", "new\nlines")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such page"),
        ("nothing\n", "lacks the lines '<!-- a: begin -->' and '<!-- a: end -->'"),
        ("<!-- a: begin -->\n", "lacks the lines"),
        ("<!-- a: end -->\n<!-- a: begin -->\n", "lacks the lines"),
    ],
)
def test_a_page_without_the_marks_is_refused_and_left(tmp_path: Path, text: str | None, said: str) -> None:
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(InputError, match=said):
        write_between_marks(page, "a", ["new"])
    assert page.exists() == (text is not None)
    assert text is None or page.read_text() == text
