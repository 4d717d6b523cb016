"""Many-shot learning: constrained decoding against a plain search, demonstrations, orders, local files."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from scripts.evaluation import in_context
from scripts.evaluation.constrained import END, build_trie, classify, depth_of
from scripts.evaluation.in_context import _alternating, _draw_demonstrations, _shuffled, _spread
from scripts.evaluation.labelled import Example, find_data_set, label_in_words, load_split
from scripts.evaluation.loaded import LoadedSubject, load_subject
from scripts.evaluation.result import render
from scripts.evaluation.settings import EvaluateConfig, InContextSettings

LABELS = ["number", "human", "human being", "location", "thing"]
"""One label begins another."""


@pytest.fixture(scope="module")
def subject(stock_llama: Path) -> LoadedSubject:
    return load_subject(str(stock_llama), "cpu", "auto", 900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample made here: a text's words say its class."""
    folder = tmp_path_factory.mktemp("labelled")
    draw = random.Random(0)
    for split, count in (("train", 60), ("test", 30)):
        with (folder / f"trec_{split}.jsonl").open("w") as file:
            for number in range(count):
                label = LABELS[number % len(LABELS)]
                file.write(json.dumps({"text": f"{label[::-1]} {draw.randrange(100)} ?", "label": label}) + "\n")
    return folder


def search(subject: LoadedSubject, text: str) -> str:
    """The same decision without cache, batch or trie: step by step over the labels that are still valid."""
    valid = {label: subject.encode(f" {label}\n") for label in LABELS}
    ids = subject.encode(text)
    for step in range(20):
        with torch.no_grad():
            logits = subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        allowed = {tokens[step] for tokens in valid.values()}
        best = max(allowed, key=lambda token: float(logits[token]))
        valid = {label: tokens for label, tokens in valid.items() if tokens[step] == best}
        ids.append(best)
        done = [label for label, tokens in valid.items() if len(tokens) == step + 1]
        if done:
            return done[0]
    raise AssertionError


@pytest.mark.parametrize("kind", ["llama", "diff_v2-grouped"])
def test_constrained_decoding_equals_a_plain_search(
    kind: str, subject: LoadedSubject, export_of: Callable[..., Path]
) -> None:
    """Batched with a shared cache and padding between context and query, against one prompt at a time."""
    if kind != "llama":
        own = load_subject(str(export_of(kind)), "cpu", "auto", 900)
        subject = LoadedSubject(own.name, own.model, own.tokenizer, 600, 900)
    data_set = find_data_set("trec")
    trie = build_trie(subject, LABELS)
    context = "Question: reb 5 ?\nType: number\n==\nQuestion: nam ?\nType: human being\n==\n"
    queries = [data_set.query(text) for text in ("a", "rebmun rebmun 12 ?", "gniht", "where is the thing at 77 ?")]
    for demonstrations in (context, ""):
        expected = [search(subject, demonstrations + query) for query in queries]
        assert classify(subject, demonstrations, queries, trie) == expected
        assert classify(subject, demonstrations, queries[:1], trie) == expected[:1]


def test_the_trie_holds_every_label_and_nothing_else(subject: LoadedSubject) -> None:
    def walk(node: dict) -> list[str]:
        return [node[END]] if END in node else [label for child in node.values() for label in walk(child)]

    trie = build_trie(subject, LABELS)
    assert sorted(walk(trie)) == sorted(LABELS)
    assert depth_of(trie) == max(len(subject.encode(f" {label}\n")) for label in LABELS)


def test_prompts_that_are_too_long_are_refused(subject: LoadedSubject) -> None:
    with pytest.raises(InputError, match="demonstrations and a query: needs"):
        classify(subject, "word " * 300, ["Question: a\nType:"], build_trie(subject, LABELS))


def test_demonstrations_are_as_balanced_as_can_be_and_orders_keep_them() -> None:
    train = [Example(f"text {number}", LABELS[number % 5]) for number in range(40)]
    drawn = _draw_demonstrations(train, 12, random.Random(1))
    assert set(Counter(example.label for example in drawn).values()) == {2, 3}
    assert len(set(drawn)) == 12
    assert drawn != _draw_demonstrations(train, 12, random.Random(2))
    for arrange in (_shuffled, _alternating):
        assert sorted(arrange(drawn, random.Random(3)), key=str) == sorted(drawn, key=str)
    turns = [example.label for example in _alternating(drawn, random.Random(3))]
    assert len(set(turns[:5])) == 5 and turns[:5] == turns[5:10]


def test_the_papers_forms() -> None:
    example = Example("Who was Galileo ?", "human")
    assert find_data_set("trec").demonstration(example) == "Question: Who was Galileo ?\nType: human"
    assert find_data_set("banking77").demonstration(example) == "query: Who was Galileo ?\nintent: human"
    assert find_data_set("clinic150").demonstration(example) == "utterance: Who was Galileo ?\nintent: human"
    assert [label_in_words(name) for name in ("ENTY:animal", "NUM", "card_arrival")] == [
        "entity animal",
        "number",
        "card arrival",
    ]


def test_the_curve_ends_where_demonstrations_no_longer_fit(subject: LoadedSubject, folder: Path) -> None:
    chosen = InContextSettings(sets=["trec"], folder=str(folder), shots=[1, 4, 32, 60], test_examples=8, draws=3)
    result = in_context.run(subject, EvaluateConfig("", "", in_context=chosen), None)
    assert set(result.metrics) == {"trec_1_shots", "trec_4_shots"}
    assert result.metrics["trec_4_shots"].count == 8, "draws share their examples"
    assert result.settings["sets"]["trec"] == {"classes": 5, "train": 60, "test": 8}


def test_a_picture_is_drawn_where_no_demonstrations_fit(subject: LoadedSubject, folder: Path) -> None:
    chosen = InContextSettings(sets=["trec"], folder=str(folder), shots=[60], test_examples=2, draws=1)
    result = in_context.run(subject, EvaluateConfig("", "", in_context=chosen), None)
    assert not result.metrics and result.draw is not None
    assert render(result.draw)


def test_what_a_model_that_knows_gets(subject: LoadedSubject, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Knows every class but one order of two makes it blind to "thing": accuracies 1 and 0.8."""
    seen: list[str] = []

    def knows(subject: LoadedSubject, context: str, queries: list[str], trie: dict) -> list[str]:
        seen.append(context)
        labels = [query.split()[1][::-1].replace("\n", "") for query in queries]
        labels = [
            "human being" if "gnieb namuh" in query else label for query, label in zip(queries, labels, strict=True)
        ]
        blind = len(seen) % 2 == 0
        return ["human" if blind and label == "thing" else label for label in labels]

    monkeypatch.setattr(in_context, "classify", knows)
    chosen = InContextSettings(
        sets=["trec"], folder=str(folder), shots=[2], order_shots=5, orders=4, test_examples=30, draws=2
    )
    settings = EvaluateConfig("", "", in_context=chosen)
    assert in_context.run(subject, settings, None).metrics["trec_2_shots"].value == pytest.approx(0.9)
    seen.clear()
    orders = in_context.run_orders(subject, settings, None)
    for kind in ("random", "alternating"):
        assert orders.metrics[f"trec_{kind}_best_minus_worst"].value == pytest.approx(0.2)
        assert orders.metrics[f"trec_{kind}_variance"].value == pytest.approx(0.01)
        assert orders.metrics[f"trec_{kind}_mean"].value == pytest.approx(0.9)
    assert len({tuple(sorted(context.split("\n==\n"))) for context in seen}) == 1, "orders change the demonstrations"
    assert len(set(seen[:4])) > 1


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"banking77_train.jsonl is missing"):
        load_split("banking77", "train", str(tmp_path))
    (tmp_path / "trec_test.jsonl").write_text('{"text": "a", "label": "b"}\n{"text": "a"}\n')
    with pytest.raises(InputError, match=r"trec_test.jsonl, line 2"):
        load_split("trec", "test", str(tmp_path))
    with pytest.raises(InputError, match="did you mean 'trec'"):
        load_split("trek", "test", str(tmp_path))


def test_lines_of_examples_are_read_as_json_lines_are(tmp_path: Path) -> None:
    file = tmp_path / "trec_test.jsonl"
    file.write_text('{"text": "a\u2028b", "label": "x"}\r\n\n{"text": "c", "label": "y z"}', encoding="utf-8")
    assert load_split("trec", "test", str(tmp_path)) == [Example("a b", "x"), Example("c", "y z")]
    good = b'{"text": "a", "label": "b"}\n'
    for content, message in (
        (b'{"text": "a", "label": 5}', "line 2: text and label must be words, are 'a' and 5"),
        (b'{"text": "a", "label": null}', "line 2: text and label must be words"),
        (b'{"text": " ", "label": "b"}', "line 2: text and label must be words"),
        (b'{"text": ["a"], "label": "b"}', "line 2: expected an object with text and label"),
        (b"[" * 100_000, "line 2: expected an object"),
        (b'{"text": "\xff", "label": "b"}', "line 2: expected an object"),
        (b"\0", "line 2: expected an object"),
    ):
        file.write_bytes(good + content)
        with pytest.raises(InputError, match=message):
            load_split("trec", "test", str(tmp_path))
    file.write_bytes(b"\n")
    with pytest.raises(InputError, match=r"trec_test\.jsonl holds no example"):
        load_split("trec", "test", str(tmp_path))
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=r"trec_test\.jsonl: damaged, or not what its name says: Is a directory"):
        load_split("trec", "test", str(tmp_path))


@pytest.mark.parametrize("truth", [[0.6] * 5, [0.6, 0.7], [0.4, 0.6, 0.6, 0.6, 0.8]], ids=["equal", "two", "apart"])
def test_the_intervals_over_orders_hold_what_is_true_as_often_as_they_say(truth: list[float]) -> None:
    """Of many answers the orders' accuracies would be ``truth``; most examples are as hard in all orders."""
    draw, share = np.random.default_rng(0), np.array(truth)[:, None]
    true = {"mean": share.mean(), "best_minus_worst": np.ptp(share), "variance": share.var()}
    held = dict.fromkeys(true, 0)
    for seed in range(100):
        alike, own = draw.random(61), draw.random((len(truth), 61))
        found = _spread(np.where(draw.random(own.shape) < 0.7, alike, own) < share, seed)
        for name, estimate in found.items():
            assert estimate.low <= estimate.value <= estimate.high and estimate.count == 61
            held[name] += bool(estimate.low <= true[name] + 1e-12 and true[name] - 1e-12 <= estimate.high)
    assert min(held.values()) >= 90, held
