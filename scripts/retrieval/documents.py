"""Training text for retrieval: short documents full of needles that come up again, later ones long and sparse.

In: a length in tokens, a random generator. Out: documents of exactly that length. Always: a number that is asked for
was stated before in the same document, and questions are written as the evaluation writes them.

Why this shape. What must be learned is to copy the token that followed the same city before. Where one needle in
hundreds of tokens is asked for once, hardly any token rewards that, and a small model stays at chance. Here needles are
stated and asked again and again, so every tenth token does; in the first stage, lists of numbers that repeat reward
copying with every second token. The later stages only let the distance grow.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scripts.evaluation.needle_text import Needle, draw_needles, question, sentences, stem

Encode = Callable[[str], list[int]]
FILLERS = ("river", "garden", "winter", "story", "train", "lamp", "house", "song")


@dataclass(frozen=True)
class Recipe:
    """What the documents of one stage are made of."""

    length: int
    """tokens of a document, its end token included"""
    most_needles: int
    """1 up to so many needles"""
    most_haystack: float
    """share of the tokens that says nothing, at most; small shares are the more common"""
    copying: float = 0.0
    """share of the documents that are lists of numbers, repeated"""


def recipe_for(length: int, first: bool) -> Recipe:
    """The curriculum: the longer the document, the more needles and the more haystack; copying at first."""
    needles = max(1, min(8, length // 32))
    return Recipe(length, needles, 0.4 if first else 0.9, copying=0.5 if first else 0.05)


def documents(recipe: Recipe, encode: Encode, draw: random.Random) -> Iterator[str]:
    """Documents without end; each has ``recipe.length - 1`` tokens."""
    while True:
        copying = draw.random() < recipe.copying
        text = _number_lists(recipe, encode, draw) if copying else _needle_text(recipe, encode, draw)
        missing = recipe.length - 1 - len(encode(text))
        text = "".join(f" {draw.choice(FILLERS)}" for _ in range(missing)) + text
        if len(encode(text)) == recipe.length - 1:
            yield text


def _number_lists(recipe: Recipe, encode: Encode, draw: random.Random) -> str:
    """The same line of numbers until the document is full."""
    count = draw.randint(3, max(3, recipe.length // 7))
    line = "\n" + " ".join(str(draw.randrange(1_000_000, 10_000_000)) for _ in range(count))
    text = line
    while len(encode(text + line)) < recipe.length:
        text += line
    return text


def _needle_text(recipe: Recipe, encode: Encode, draw: random.Random) -> str:
    """Needles, stated and asked at random places after the first, between sentences; a question comes last."""
    needles = draw_needles(draw.randint(1, recipe.most_needles), draw)
    room = recipe.length - 1
    haystack = int(draw.random() ** 2 * recipe.most_haystack * room)
    last = _asked(needles, draw)
    room -= len(encode(last))
    blocks: list[tuple[float, str]] = []
    stated: dict[str, float] = {}
    for needle in needles:
        room -= len(encode(needle.sentence))
        stated[needle.city] = draw.random() * 0.6
        blocks.append((stated[needle.city], needle.sentence))
    while True:
        block = _asked(needles, draw) if draw.random() < 0.5 else draw.choice(needles).sentence
        size = len(encode(block))
        if size > room - haystack:
            break
        earliest = max(place for city, place in stated.items() if city in block)
        blocks.append((draw.uniform(earliest, 1.0), block))
        room -= size
    for sentence in sentences(draw):
        size = len(encode(sentence))
        if size > room:
            break
        blocks.append((draw.random(), sentence))
        room -= size
    blocks.sort(key=lambda block: block[0])
    return "".join(text for _, text in blocks) + last


def _asked(needles: list[Needle], draw: random.Random) -> str:
    """A question about one needle, or now and then two, with its answers."""
    asked = draw.sample(needles, 2 if len(needles) > 1 and draw.random() < 0.2 else 1)
    lines = "\n".join(f"{stem(needle.city)} {needle.number}" for needle in asked)
    return f"\n{question([needle.city for needle in asked])} {lines}"
