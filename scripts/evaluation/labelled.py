"""The classification data sets of many-shot in-context learning: TREC, TREC-fine, Banking-77, Clinic-150.

In: a name, and a folder of local files or the hub. Out: examples with labels in words, a prompt's form.
Always: local files win over the hub; nothing is downloaded where a folder is given.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError, nearest
from data.damage import damage_named

SEPARATOR = "\n==\n"


@dataclass(frozen=True)
class Example:
    """A text and its class."""

    text: str
    label: str


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies on the hub, and how the papers write its examples."""

    hub_name: str
    hub_config: str | None
    hub_revision: str | None
    label_column: str
    input_word: str
    label_word: str

    def demonstration(self, example: Example) -> str:
        """An example with its answer."""
        return f"{self.query(example.text)} {example.label}"

    def query(self, text: str) -> str:
        """An example without its answer."""
        return f"{self.input_word}: {text}\n{self.label_word}:"


PARQUET = "refs/convert/parquet"  # the hub's own copy of data sets that were published as a script
DATA_SETS = {
    "trec": DataSet("CogComp/trec", None, PARQUET, "coarse_label", "Question", "Type"),
    "trec_fine": DataSet("CogComp/trec", None, PARQUET, "fine_label", "Question", "Type"),
    "banking77": DataSet("PolyAI/banking77", None, PARQUET, "label", "query", "intent"),
    "clinic150": DataSet("clinc/clinc_oos", "plus", None, "intent", "utterance", "intent"),
}
_TREC_WORDS = {
    "ABBR": "abbreviation",
    "ENTY": "entity",
    "DESC": "description",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}


def find_data_set(name: str) -> DataSet:
    """The data set called ``name``."""
    if name not in DATA_SETS:
        raise InputError(f"in_context.sets: unknown '{name}'{nearest(name, DATA_SETS)} known: {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def load_split(name: str, split: str, folder: str | None) -> list[Example]:
    """The ``train`` or ``test`` examples of a data set.

    Raises:
        InputError: no such file or no network, or a line without text and label.
    """
    find_data_set(name)
    if folder is not None:
        path = Path(folder) / f"{name}_{split}.jsonl"
        if not path.exists():
            raise InputError(f"in_context.folder: {path} is missing; each line is an object with text and label")
        examples = list(_read_lines(path))
        if not examples:
            raise InputError(f"in_context.folder: {path} holds no example")
        return examples
    return list(_download(DATA_SETS[name], split))


def _read_lines(path: Path) -> Iterator[Example]:
    with damage_named(str(path)), path.open("rb") as lines:  # a line ends at a newline alone, as JSON lines do
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _example(line, f"{path}, line {number}")


def _example(line: bytes, where: str) -> Example:
    try:
        values = json.loads(line)
        text, label = " ".join(values["text"].split()), values["label"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{where}: expected an object with text and label") from None
    if not isinstance(label, str) or not label.strip() or not text:
        raise InputError(f"{where}: text and label must be words, are {values['text']!r:.60} and {label!r:.60}")
    return Example(text, label)


def _download(data_set: DataSet, split: str) -> Iterator[Example]:
    from datasets import load_dataset

    try:
        rows: Any = load_dataset(
            data_set.hub_name,
            data_set.hub_config,
            revision=data_set.hub_revision,
            split=split,
            verification_mode="no_checks",
        )
        names = rows.features[data_set.label_column].names
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{data_set.hub_name}: cannot be read from the hub ({reason}); use --in_context.folder"
        ) from None
    for row in rows:
        name = names[row[data_set.label_column]]
        if name != "oos":
            yield Example(" ".join(row["text"].split()), label_in_words(name))


def label_in_words(name: str) -> str:
    """``ENTY:animal`` -> ``entity animal``, ``card_arrival`` -> ``card arrival``."""
    first, *rest = name.replace("_", " ").split(":")
    return " ".join([_TREC_WORDS.get(first, first), *rest])
