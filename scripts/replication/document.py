"""A page as blocks, and its two forms: Markdown beside its pictures, HTML that needs no other file.

In: blocks. Out: text. Always: both forms say the same; HTML escapes what it is given.
"""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.2rem .5rem;text-align:left}"
    "img{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain sentences."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG by its name."""

    name: str
    caption: str


Block = Heading | Paragraph | Table | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """For docs/: pictures are files beside it."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        case Picture(name, caption):
            return f"![{caption}]({name})"


def page(blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """One HTML file, its pictures inside."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(line for block in blocks for line in _html(block, pictures))
    return (
        f"<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style>\n<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, pictures: Mapping[str, bytes]) -> Iterator[str]:
    match block:
        case Heading(level, text):
            yield f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            yield f"<p>{html.escape(text)}</p>"
        case Table(head, rows):
            yield "<table>"
            for tag, line in [("th", head), *(("td", row) for row in rows)]:
                yield "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
            yield "</table>"
        case Picture(name, caption):
            data = base64.b64encode(pictures[name]).decode()
            yield f"<figure><img src='data:image/png;base64,{data}' alt='{html.escape(caption)}'></figure>"
