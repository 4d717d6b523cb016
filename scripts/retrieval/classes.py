"""Texts with classes whose labels mean nothing outside of one document: a few words of a topic, and a city for a label.

In: a random generator. Out: classes, examples; and a data set for the in-context tasks of scripts/evaluate.py. Always:
which words make a topic is the same everywhere and can be learned by heart; which label a topic has is drawn for each
document anew, so it can only be read off the demonstrations before.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import write_atomically
from scripts.evaluation.labelled import Example, find_data_set
from scripts.evaluation.needle_text import ADJECTIVES, CITIES, NOUNS

DATA_SET = "trec"
FORM = find_data_set(DATA_SET)
"""the data set as which ours is evaluated, and in whose form its examples are written"""
WORDS_OF_A_TOPIC = 3
TOPICS = tuple(NOUNS[first : first + WORDS_OF_A_TOPIC] for first in range(0, len(NOUNS) - 2, WORDS_OF_A_TOPIC))


@dataclass(frozen=True)
class Class:
    """A topic and what it is called."""

    words: Sequence[str]
    label: str


def draw_classes(count: int, draw: random.Random) -> list[Class]:
    """Different topics with different labels."""
    pairs = zip(draw.sample(TOPICS, count), draw.sample(CITIES, count), strict=True)
    return [Class(words, label) for words, label in pairs]


def example(drawn: Class, draw: random.Random) -> Example:
    """A text of the class: two words of its topic behind one that says nothing."""
    return Example(f"{draw.choice(ADJECTIVES)} {' '.join(draw.sample(drawn.words, 2))}", drawn.label)


def write_data_set(folder: Path, classes: int, seed: int, train: int = 240, test: int = 60) -> None:
    """DATA_SET_train.jsonl and DATA_SET_test.jsonl, of ``classes`` classes in turn."""
    draw = random.Random(f"{seed}/classes")
    drawn = draw_classes(classes, draw)
    for split, count in (("train", train), ("test", test)):
        examples = [example(drawn[number % classes], draw) for number in range(count)]
        lines = [json.dumps({"text": made.text, "label": made.label}) + "\n" for made in examples]
        write_atomically(folder / f"{DATA_SET}_{split}.jsonl", "".join(lines))
