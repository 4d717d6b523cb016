"""Training text for retrieval: digits that repeat, then short documents full of needles, then long and sparse ones.

In: a recipe, a random generator. Out: documents of exactly its length. Always: a number that is asked for was stated
before in the same document, and questions are written as the evaluation writes them.

Why this shape. What must be learned is to copy the token that followed the same city before. Where one needle in
hundreds of tokens is asked for once, hardly any token rewards that, and a small model stays at chance. Even needles
that are stated and asked again and again did not move it in 1,500 steps. Where the same few tokens repeat until the
document is full, nearly every token rewards copying: 500 to 1,000 steps teach it, and 300 more carry it to needles.
The later stages only let the distance grow. From 1,024 tokens on, needles that are stated again and again would be near
wherever they are asked for: there each is stated once and asked once, and half of them across the whole document. With
places drawn evenly, few questions reach that far, and what stood at the start of 4,096 tokens was not found.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice

from scripts.evaluation.labelled import SEPARATOR
from scripts.evaluation.needle_text import Needle, draw_needles, question, sentences, stem
from scripts.retrieval.classes import FORM, draw_classes, example

Encode = Callable[[str], list[int]]
NEAR_AN_END = 0.125  # of a document: where a far needle is stated, and where it is asked
FILLERS = ("river", "garden", "winter", "story", "train", "lamp", "house", "song")


@dataclass(frozen=True)
class Recipe:
    """What the documents of one stage are made of."""

    length: int
    """tokens of a document, its end token included"""
    most_needles: int
    """largest number of needles in a document; at least one is there"""
    most_haystack: float
    """share of the tokens that says nothing, at most; small shares are the more common"""
    copying: float
    """share of the documents that are a few tokens, repeated"""
    scattered: bool = field(default=False, repr=False)  # seeds are made of the representation, and have to stay
    """needles are stated once and asked once, and sentences fill the document (``most_haystack`` is not read)"""
    from_start: float = field(default=0.0, repr=False)
    """share of the documents of needles in which one of them stands before all else"""
    far: float = field(default=0.0, repr=False)
    """of scattered needles, the share that is stated near the start of the document and asked near its end"""
    most_classes: int = field(default=0, repr=False)
    """instead of needles: texts with their class, of two classes at least, whose labels hold in the document only"""


CURRICULUM = {
    "copies": Recipe(64, most_needles=1, most_haystack=0.0, copying=1.0),
    "64": Recipe(64, most_needles=2, most_haystack=0.4, copying=0.25),
    "128": Recipe(128, most_needles=4, most_haystack=0.9, copying=0.25),
    "256": Recipe(256, most_needles=8, most_haystack=0.9, copying=0.25),
    "512": Recipe(512, most_needles=8, most_haystack=0.9, copying=0.25),
    "256_from_start": Recipe(256, most_needles=8, most_haystack=0.9, copying=0.25, from_start=0.25),
    "512_from_start": Recipe(512, most_needles=8, most_haystack=0.9, copying=0.25, from_start=0.25),
    "1024_far": Recipe(1024, 16, most_haystack=1.0, copying=0.25, scattered=True, from_start=0.5, far=0.5),
    "2048_far": Recipe(2048, 32, most_haystack=1.0, copying=0.25, scattered=True, from_start=0.5, far=0.5),
    "4096_far": Recipe(4096, 64, most_haystack=1.0, copying=0.25, scattered=True, from_start=0.5, far=0.5),
    "classes_128": Recipe(128, most_needles=0, most_haystack=0.0, copying=0.25, most_classes=3),
    "classes_256": Recipe(256, most_needles=0, most_haystack=0.0, copying=0.25, most_classes=6),
}
"""The stages by the names of their folders: the longer the document, the more needles and the more haystack."""


def documents(recipe: Recipe, encode: Encode, draw: random.Random) -> Iterator[str]:
    """Documents without end; each has ``recipe.length - 1`` tokens."""
    told = _class_text if recipe.most_classes else _scattered_text if recipe.scattered else _needle_text
    while True:
        text = (_repeated_digits if draw.random() < recipe.copying else told)(recipe, encode, draw)
        missing = recipe.length - 1 - len(encode(text))
        text = "".join(f" {draw.choice(FILLERS)}" for _ in range(missing)) + text
        if len(encode(text)) == recipe.length - 1:
            yield text


def _repeated_digits(recipe: Recipe, encode: Encode, draw: random.Random) -> str:
    """The same few groups of three digits, one token each, until the document is full."""
    period = draw.randint(4, recipe.length // 4)
    groups: list[str] = []
    while len(groups) < period:
        group = f"{draw.randrange(1000):03d}"
        if len(encode(group)) == 1:
            groups.append(group)
    return "".join(islice(cycle(groups), recipe.length - 1))


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
    if recipe.from_start and draw.random() < recipe.from_start:
        stated[needles[0].city] = 0.0
        blocks[0] = (0.0, needles[0].sentence)
    while True:
        block = _asked(needles, draw) if draw.random() < 0.5 else draw.choice(needles).sentence
        size = len(encode(block))
        if size > room - haystack:
            break
        earliest = max(place for city, place in stated.items() if city in block)
        blocks.append((draw.uniform(earliest, 1.0), block))
        room -= size
    return _filled(blocks, room, encode, draw) + last


def _scattered_text(recipe: Recipe, encode: Encode, draw: random.Random) -> str:
    """Few needles or many, stated anywhere and asked once anywhere after that, the first of them at the very end."""
    needles = draw_needles(round(recipe.most_needles ** draw.random()), draw)
    last = _asked(needles[:1], draw)
    room = recipe.length - 1 - len(encode(needles[0].sentence)) - len(encode(last))
    blocks = [(0.0 if draw.random() < recipe.from_start else draw.random(), needles[0].sentence)]
    for needle in needles[1:]:
        question_with_answer = _asked([needle], draw)
        room -= len(encode(needle.sentence)) + len(encode(question_with_answer))
        if room < 0:
            break
        far = draw.random() < recipe.far
        stated = draw.random() * (NEAR_AN_END if far else 1.0)
        asked = draw.uniform(1.0 - NEAR_AN_END if far else stated, 1.0)
        blocks += [(stated, needle.sentence), (asked, question_with_answer)]
    return _filled(blocks, room, encode, draw) + last


def _class_text(recipe: Recipe, encode: Encode, draw: random.Random) -> str:
    """Examples as the evaluation writes them, of a few classes, until the document is full."""
    classes = draw_classes(draw.randint(2, recipe.most_classes), draw)
    text = "\n"  # which no filler before it grows together with
    room = recipe.length - 1 - len(encode(text))
    while True:
        more = FORM.demonstration(example(draw.choice(classes), draw)) + SEPARATOR
        size = len(encode(more))
        if size > room:
            return text
        text, room = text + more, room - size


def _filled(blocks: list[tuple[float, str]], room: int, encode: Encode, draw: random.Random) -> str:
    """The blocks by their places, and between them sentences of ``room`` tokens at most."""
    for sentence in sentences(draw):
        size = len(encode(sentence))
        if size > room:
            break
        blocks.append((draw.random(), sentence))
        room -= size
    blocks.sort(key=lambda block: block[0])
    return "".join(text for _, text in blocks)


def _asked(needles: list[Needle], draw: random.Random) -> str:
    """A question about one needle, or now and then two, with its answers."""
    asked = draw.sample(needles, 2 if len(needles) > 1 and draw.random() < 0.2 else 1)
    lines = "\n".join(f"{stem(needle.city)} {needle.number}" for needle in asked)
    return f"\n{question([needle.city for needle in asked])} {lines}"
