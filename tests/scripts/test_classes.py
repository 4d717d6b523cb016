"""Documents that classify: labels hold inside one document only, and examples are written as the evaluation does."""

import random
import re
from itertools import islice
from pathlib import Path

import pytest

from scripts.evaluation.labelled import SEPARATOR, load_split
from scripts.retrieval.classes import DATA_SET, FORM, TOPICS, write_data_set
from scripts.retrieval.documents import CURRICULUM, Recipe, documents


def encode(text: str) -> list[int]:
    """Words and signs as tokens."""
    return [hash(word) for word in re.findall(r" ?\w+|\W", text)]


def shown(text: str) -> list[tuple[str, str]]:
    return re.findall(rf"{FORM.input_word}: (.*)\n{FORM.label_word}: (\w+)\n==", text)


@pytest.mark.parametrize("name", ["classes_128", "classes_256"])
def test_a_topic_has_one_label_in_a_document_and_others_elsewhere(name: str) -> None:
    recipe = CURRICULUM[name]
    plain = Recipe(recipe.length, 0, 0.0, copying=0.0, most_classes=recipe.most_classes)
    labels: dict[int, set[str]] = {}
    counts = set()
    for text in islice(documents(plain, encode, random.Random(3)), 40):
        assert len(encode(text)) == recipe.length - 1 and text.endswith(SEPARATOR)
        own: dict[int, str] = {}
        for words, label in shown(text):
            _, first, second = words.split()
            (topic,) = {number for number, topic in enumerate(TOPICS) if first in topic or second in topic}
            assert own.setdefault(topic, label) == label and first != second
        counts.add(len(own))
        assert len(set(own.values())) == len(own) <= recipe.most_classes
        for topic, label in own.items():
            labels.setdefault(topic, set()).add(label)
    assert max(counts) == recipe.most_classes
    assert min(len(found) for found in labels.values()) >= 2


def test_the_data_set_is_one_that_the_tasks_read(tmp_path: Path) -> None:
    write_data_set(tmp_path, 5, seed=1, train=23, test=11)
    train, test = (load_split(DATA_SET, split, str(tmp_path)) for split in ("train", "test"))
    assert (len(train), len(test)) == (23, 11)
    assert {example.label for example in test} <= {example.label for example in train}
    assert len({example.label for example in train}) == 5
