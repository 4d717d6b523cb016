"""The text that a small model learns to retrieve from, and the table that compares kinds."""

import json
import random
import re
from itertools import islice
from pathlib import Path

import pytest

from common.errors import InputError
from data.config import DataConfig
from data.stream import open_validation
from scripts.evaluation.needle_text import CITIES
from scripts.retrieval.comparison import compare
from scripts.retrieval.corpus import build_corpus, build_tokenizer
from scripts.retrieval.documents import CURRICULUM, Recipe, documents
from scripts.train_retrieval import RetrievalConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.retrieval.corpus.TOKENIZER_TEXTS", 1500)
        build_tokenizer(folder / "tokenizer")
    return folder


def test_cities_are_one_token_and_numbers_three(folder: Path) -> None:
    encode = build_tokenizer(folder / "tokenizer").encode
    assert all(len(encode(f" {city}")) == 1 for city in CITIES)
    draw = random.Random(0)
    sizes = [len(encode(str(draw.randrange(1_000_000, 10_000_000)))) for _ in range(300)]
    assert sum(size == 3 for size in sizes) > 250


@pytest.mark.parametrize("name", ["64", "128", "512", "1024_far"])
def test_documents_have_one_length_and_ask_for_what_was_stated(name: str, folder: Path) -> None:
    encode = build_tokenizer(folder / "tokenizer").encode
    recipe = CURRICULUM[name]
    made = list(islice(documents(recipe, encode, random.Random(1)), 60))
    assert {len(encode(text)) for text in made} == {recipe.length - 1}
    told = 0
    for text in made:
        known: dict[str, str] = {}
        for line in text.split("\n"):
            for city, number in re.findall(r"The special magic (\w+) number is: (\d{7})", line):
                if "What " in line:
                    assert city in known, text
                assert known.setdefault(city, number) == number
                told += 1
    assert told >= 1.5 * len(made)


def test_needles_of_long_documents_are_stated_once_and_asked_for_at_all_distances(folder: Path) -> None:
    encode = build_tokenizer(folder / "tokenizer").encode
    recipe = Recipe(1024, most_needles=16, most_haystack=1.0, copying=0.0, scattered=True)
    distances, counts = [], []
    for text in islice(documents(recipe, encode, random.Random(2)), 40):
        stated = {found[1]: found.start() for found in re.finditer(r"\nThe special magic (\w+) number", text)}
        asked = list(re.finditer(r"\? The special magic (\w+) number", text))
        assert len(re.findall(r"\nThe special magic", text)) == len(stated)
        assert sorted(found[1] for found in asked) == sorted(stated)
        distances += [(found.start() - stated[found[1]]) / len(text) for found in asked]
        counts.append(len(stated))
    assert min(counts) == 1
    assert 8 < max(counts) <= 16
    assert min(distances) > 0
    for distance in (0.2, 0.5, 0.8):  # of a document
        assert 0.05 < sum(abs(found - distance) < 0.1 for found in distances) / len(distances) < 0.5


def test_far_needles_are_asked_across_the_whole_document(folder: Path) -> None:
    """Of 1,024 tokens: without them, hardly a question reaches from the last eighth to the first."""
    encode = build_tokenizer(folder / "tokenizer").encode
    across: dict[float, float] = {}
    for far in (0.0, 1.0):
        recipe = Recipe(1024, 16, most_haystack=1.0, copying=0.0, scattered=True, far=far)
        reached = []
        for text in islice(documents(recipe, encode, random.Random(5)), 40):
            stated = {found[1]: found.start() for found in re.finditer(r"\nThe special magic (\w+) number", text)}
            asked = list(re.finditer(r"\? The special magic (\w+) number", text))
            reached += [(found.start() - stated[found[1]]) / len(text) > 0.6 for found in asked[:-1]]
        across[far] = sum(reached) / len(reached)
    assert across[0.0] < 0.15
    assert across[1.0] > 0.9


def test_a_needle_may_stand_before_all_else(folder: Path) -> None:
    encode = build_tokenizer(folder / "tokenizer").encode
    first: dict[float, int] = {}
    for share, scattered in ((0.0, False), (1.0, False), (0.0, True), (1.0, True)):
        recipe = Recipe(256, 3, most_haystack=0.9, copying=0.0, scattered=scattered, from_start=share)
        made = list(islice(documents(recipe, encode, random.Random(4)), 30))
        assert {len(encode(text)) for text in made} == {255}
        first[share] = sum(
            re.match(r"( [a-z]+)*\nThe special magic \w+ number is: \d{7}\n", text) is not None for text in made
        )
        assert share == 0.0 or first[1.0] == 30 > first[0.0] + 5


def test_the_first_stage_rewards_copying_with_nearly_every_token(folder: Path) -> None:
    encode = build_tokenizer(folder / "tokenizer").encode
    for text in islice(documents(CURRICULUM["copies"], encode, random.Random(1)), 20):
        ids = encode(text)
        assert len(ids) == 63
        assert any(ids[period:] == ids[:-period] for period in range(4, 17))


def test_a_sample_of_the_corpus_is_one_document(folder: Path) -> None:
    """Equal lengths and one end token each: documents and samples never drift apart."""
    recipe = Recipe(64, most_needles=2, most_haystack=0.4, copying=0.0)
    output = build_corpus(folder, "short", recipe, 120, seed=0, workers=1)
    assert build_corpus(folder, "short", recipe, 120, seed=0, workers=1) == output
    validation = open_validation(DataConfig(validation=str(output / "train"), sequence_length=64))
    assert validation is not None
    samples = validation.fetch(range(validation.num_samples))  # type: ignore[arg-type]
    assert (samples[:, 63] == validation.eod_id).all()
    assert (samples[:, :63] != validation.eod_id).all()


def test_the_text_of_long_documents_left_that_of_short_ones_as_it_was() -> None:
    """Corpora are drawn from the recipe's words: a study that is repeated reads the same text."""
    assert repr(CURRICULUM["512"]) == "Recipe(length=512, most_needles=8, most_haystack=0.9, copying=0.25)"


def results_file(path: Path, value: float) -> Path:
    metric = {"value": value, "low": value - 0.1, "high": value + 0.1, "count": 250, "method": "wilson"}
    task = {
        "metrics": {"needles_1_asked_1": metric, "needles_2_asked_2": metric},
        "settings": {"lengths": [512], "depths": [0.0, 1.0], "samples_per_cell": 50},
        "details": {"chance_of_any_needles_number": {"needles_1": 1e-7, "needles_2": 0.5}},
    }
    path.write_text(json.dumps({"tasks": {"needles": task}}))
    return path


def test_the_table_has_intervals_over_seeds_and_chance(tmp_path: Path) -> None:
    files = [results_file(tmp_path / f"{value}.json", value) for value in (0.8, 0.9, 1.0)]
    lines = compare({"diff": files, "standard": files[:1]}, tmp_path / "needles")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    assert rows["diff"][:2] == ["3", "0.900 [0.652, 1.000]"]  # t of 2 degrees: 0.9 - 4.303 * 0.1 / sqrt(3); a share
    assert rows["standard"][:2] == ["1", "0.800 [0.700, 0.900]"]
    assert rows["any needle's number"][1:] == ["0.000", "0.500"]
    assert {path.suffix for path in tmp_path.glob("needles.*")} == {".md", ".json", ".png"}


@pytest.mark.parametrize("name", ["kinds", "seeds", "pairs"])
def test_nothing_to_train_or_to_measure_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"^--{name}: is empty; name at least one, or leave it out$"):
        RetrievalConfig(**{name: []})
