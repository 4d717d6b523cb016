"""One needle prompt: a haystack of so many tokens, needles in it at chosen depths, questions behind it.

In: a tokenizer, a length, depths. Out: the text before the first answer, and where the asked needle stands in it.
Always: the prompt with its answers fits into the length; a needle goes in at the full stop before its place.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from common.errors import InputError
from scripts.evaluation.needle_text import Needle, draw_needles, question, stem
from scripts.evaluation.subject import Subject

SPARE_TOKENS = 4  # an answer may begin with a blank or end with a line break


@dataclass(frozen=True)
class NeedlePrompt:
    """Context and question; the answers follow, one after the other."""

    text: str
    """context, question and the first stem"""
    asked: tuple[Needle, ...]
    """in the order of the question"""
    span: tuple[int, int]
    """characters of ``text`` where the first asked needle's number stands"""
    answer_tokens: int
    """new tokens that one answer may take"""


def build_prompt(
    subject: Subject, pieces: Iterator[str], length: int, depth: float, counts: tuple[int, int], draw: random.Random
) -> NeedlePrompt:
    """A prompt of at most ``length`` tokens, answers included.

    Args:
        pieces: the haystack, sentence by sentence.
        depth: place of the first asked needle, 0 (start) to 1 (end of the context); the others lie anywhere.
        counts: N needles, R of them asked.

    Raises:
        InputError: ``length`` has no room for the needles and questions.
    """
    num_needles, num_asked = counts
    needles = draw_needles(num_needles, draw)
    asked = tuple(needles[:num_asked])
    tail = "\n" + question([needle.city for needle in asked]) + " " + stem(asked[0].city)
    answer_tokens = max(len(subject.encode(f" {needle.number}\n")) for needle in needles) + SPARE_TOKENS
    rest = sum(len(subject.encode(f"\n{stem(needle.city)}")) for needle in asked[1:])
    fixed = len(subject.encode(tail)) + rest + num_asked * answer_tokens
    fixed += sum(len(subject.encode(needle.sentence)) + 1 for needle in needles)
    if fixed > length:
        raise InputError(
            f"needles: {num_needles} needles and {num_asked} questions take {fixed} tokens, more than {length}"
        )
    depths = [depth, *(draw.random() for _ in needles[1:])]
    sentences, sizes = _collect(subject, pieces, length - fixed)
    while True:
        text, span = _insert(sentences, sizes, needles, depths)
        excess = len(subject.encode(text + tail)) + rest + num_asked * answer_tokens - length
        if excess <= 0 or not sentences:
            return NeedlePrompt(text + tail, asked, span, answer_tokens)
        sentences.pop()
        sizes.pop()


def _collect(subject: Subject, pieces: Iterator[str], room: int) -> tuple[list[str], list[int]]:
    """Sentences that fill ``room`` tokens, and their sizes."""
    sentences: list[str] = []
    sizes: list[int] = []
    filled = 0
    while True:
        piece = next(pieces)
        size = len(subject.encode(piece))
        if filled + size > room:
            return sentences, sizes
        sentences.append(piece)
        sizes.append(size)
        filled += size


def _insert(
    sentences: Sequence[str], sizes: Sequence[int], needles: Sequence[Needle], depths: Sequence[float]
) -> tuple[str, tuple[int, int]]:
    """The context, and the characters of the first needle's number."""
    ends = [0, *accumulate(sizes)]
    places = [max(index for index, end in enumerate(ends) if end <= depth * ends[-1]) for depth in depths]
    text, span = "", (0, 0)
    for index in range(len(ends)):
        for number in sorted(range(len(needles)), key=lambda number: depths[number]):
            if places[number] == index:
                text += needles[number].sentence
                if number == 0:
                    end = len(text) - 1
                    span = (end - len(needles[0].number), end)
        if index < len(sentences):
            text += sentences[index]
    return text, span
