"""The token shards of every stage, and the tokenizer that all of them share.

In: recipes, numbers of documents, a folder. Out: FOLDER/tokenizer and FOLDER/NAME/{train,validation}.
Always: equal settings give equal shards; what is there already is not made again.
"""

import json
import random
from itertools import islice
from pathlib import Path

from common.files import atomic_file
from data.prepare import PrepareConfig, prepare
from data.small_bpe import train_small_bpe
from data.tokenizer import INFO_FILE, Tokenizer, load_tokenizer
from scripts.evaluation.needle_text import draw_needles, question, sentences, stem
from scripts.retrieval.documents import Recipe, documents

VOCAB_SIZE = 2304
TOKENIZER_TEXTS = 4000


def build_tokenizer(folder: Path) -> Tokenizer:
    """A small BPE in which cities and nearly all three-digit numbers are one token each."""
    if not (folder / INFO_FILE).exists():
        train_small_bpe([_tokenizer_text(number) for number in range(TOKENIZER_TEXTS)], VOCAB_SIZE).save(folder)
    return load_tokenizer(folder)


def build_corpus(folder: Path, name: str, recipe: Recipe, count: int, seed: int, workers: int) -> Path:
    """``count`` documents as token shards in the folder ``name``, which is returned."""
    tokenizer = build_tokenizer(folder / "tokenizer")
    output = folder / name
    if (output / "summary.json").exists():
        return output
    text = folder / f"{name}.jsonl"
    draw = random.Random(f"{seed}/{recipe}")
    with atomic_file(text) as file:
        for document in islice(documents(recipe, tokenizer.encode, draw), count):
            file.write((json.dumps({"text": document}) + "\n").encode())
    settings = PrepareConfig(
        input=[str(text)], output=str(output), tokenizer=str(folder / "tokenizer"), workers=workers, validation=0.02
    )
    prepare(settings)
    text.unlink()
    return output


def _tokenizer_text(number: int) -> str:
    draw = random.Random(number)
    needles = draw_needles(20, draw)
    asked = [f"\n{question([needle.city])} {stem(needle.city)} {needle.number}" for needle in needles]
    return "".join(islice(sentences(draw), 6)) + "".join(needle.sentence for needle in needles) + "".join(asked)
