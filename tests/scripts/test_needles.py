"""Needle prompts, their scoring, and attention scores on maps that are known."""

import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.errors import InputError
from scripts.evaluation import needles
from scripts.evaluation.attention import KINDS, measure
from scripts.evaluation.loaded import LoadedSubject, load_subject
from scripts.evaluation.needle_prompt import NeedlePrompt, build_prompt
from scripts.evaluation.needle_text import CITIES, draw_needles, haystack, question, sentences, stem
from scripts.evaluation.needles import ask
from scripts.evaluation.settings import EvaluateConfig, NeedleSettings
from scripts.evaluation.subject import Ids

LENGTH = 2000


@pytest.fixture(scope="module")
def subject(stock_llama: Path) -> LoadedSubject:
    return load_subject(str(stock_llama), "cpu", "auto", 4096)


def prompt_of(subject: LoadedSubject, depth: float, counts: tuple[int, int] = (1, 1), seed: int = 0) -> NeedlePrompt:
    draw = random.Random(seed)
    return build_prompt(subject, sentences(draw), LENGTH, depth, counts, draw)


def test_needles_have_different_cities_and_seven_digits() -> None:
    drawn = draw_needles(len(CITIES), random.Random(1))
    assert len({needle.city for needle in drawn}) == len(CITIES)
    assert all(needle.number.isdigit() and len(needle.number) == 7 for needle in drawn)
    assert drawn[0].sentence == f"\nThe special magic {drawn[0].city} number is: {drawn[0].number}\n"
    assert question(["Rome"]) == "What is the special magic number for Rome?"
    with pytest.raises(InputError, match="at most"):
        draw_needles(len(CITIES) + 1, random.Random(1))


@pytest.mark.parametrize("counts", [(1, 1), (4, 2)])
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_asked_needle_lies_at_its_depth_behind_a_full_stop(
    depth: float, counts: tuple[int, int], subject: LoadedSubject
) -> None:
    for seed in range(5):
        prompt = prompt_of(subject, depth, counts, seed)
        needle = prompt.asked[0]
        start, end = prompt.span
        assert prompt.text[start:end] == needle.number
        assert len(prompt.asked) == counts[1]
        assert prompt.text.endswith(f"\n{question([n.city for n in prompt.asked])} {stem(needle.city)}")
        assert prompt.text.count("The special magic ") == counts[0] + 1
        place = prompt.text.index(needle.sentence)
        assert place == 0 or prompt.text[place - 1] in ".\n"
        context = prompt.text.rindex("\nWhat ")
        others = len(needle.sentence) * (counts[0] - 1) / context
        assert depth - 0.06 - others <= place / (context - len(needle.sentence)) <= depth + 0.01 + others
        room = LENGTH - len(subject.encode(prompt.text))
        assert 0 <= room - counts[1] * prompt.answer_tokens <= 130


def test_a_length_without_room_is_an_error(subject: LoadedSubject) -> None:
    draw = random.Random(0)
    with pytest.raises(InputError, match="8 needles and 1 questions take"):
        build_prompt(subject, sentences(draw), 200, 0.5, (8, 1), draw)


@pytest.mark.parametrize("content", [b"\x89PNG. Not. Text.", b"A sentence.\0 Another.", "Wide.".encode("utf-16")])
def test_a_haystack_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"haystack .*a\.txt: not text in UTF-8"):
        next(haystack(str(tmp_path / "a.txt"), random.Random(0)))


def test_a_haystack_of_ones_own_is_used_and_starts_anywhere(tmp_path: Path) -> None:
    text = tmp_path / "essay.txt"
    text.write_text("One thing. Another thing. A third.")
    pieces = list(islice(haystack(str(text), random.Random(3)), 6))
    assert set(pieces) == {"One thing.", " Another thing.", " A third."}
    assert len({next(haystack(str(text), random.Random(seed))) for seed in range(20)}) == 3
    (tmp_path / "empty.txt").write_text("no full stop")
    with pytest.raises(InputError, match="no sentence"):
        next(haystack(str(tmp_path / "empty.txt"), random.Random(0)))


class Oracle(LoadedSubject):
    """Finds the number of the city whose stem ends the prompt, and counts what it was asked."""

    prompts: list[str]

    def _continuations(self, prompts: Sequence[Ids], length: int, guesses: Sequence[Ids]) -> list[list[int]]:
        texts = [self.decode(prompt) for prompt in prompts]
        self.prompts += texts
        return [self.encode(self.answer(text))[:length] for text in texts]

    def answer(self, text: str) -> str:
        last = text[text.rindex("The special magic ") :]
        return f" {text.split(last)[1][1:8]}\nand so on"


@pytest.fixture
def oracle(subject: LoadedSubject) -> Oracle:
    oracle = Oracle(subject.name, subject.model, subject.tokenizer, LENGTH, subject.batch_tokens)
    oracle.prompts = []
    return oracle


def test_an_oracle_is_right_and_is_asked_for_every_city_in_turn(oracle: Oracle) -> None:
    prompt = prompt_of(oracle, 0.5, (4, 2))
    assert ask(oracle, [prompt]) == [[True, True]]
    first, second = prompt.asked
    assert oracle.prompts[1] == f"{prompt.text} {first.number}\n{stem(second.city)}"


def test_accuracy_counts_prompts_and_answers(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong for every city that is asked second: half of the answers, no prompt all right."""
    right = Oracle.answer
    monkeypatch.setattr(
        Oracle, "answer", lambda self, text: right(self, text) if text.count("\nThe") <= 2 else " 0000000"
    )
    settings = NeedleSettings(lengths=[500], pairs=[[1, 1], [2, 2]], depths=[0.0, 1.0], samples=3)
    result = needles.run(oracle, EvaluateConfig("", "", needles=settings), None)
    assert result.metrics["needles_1_asked_1"].value == 1.0
    assert result.metrics["needles_2_asked_2"].value == 0.5
    assert result.metrics["needles_2_asked_2_all_right"].value == 0.0
    assert {estimate.count for estimate in result.metrics.values()} == {6}
    assert [cell["samples"] for cell in result.details["cells"]] == [3] * 4


def test_answers_that_are_no_text_do_not_outgrow_the_length(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has learned nothing writes broken bytes, whose replacements take more tokens than it wrote."""
    broken = oracle.encode("\N{GRINNING FACE}")[:1] * 40
    assert len(oracle.encode(oracle.decode(broken))) > len(broken)
    monkeypatch.setattr(
        Oracle, "_continuations", lambda self, prompts, length, guesses: [broken[:length]] * len(prompts)
    )
    seeds = range(7)
    prompts = [prompt_of(oracle, 0.5, (4, 3), seed) for seed in seeds]  # as long as the model's positions
    assert ask(oracle, prompts) == [[False] * 3 for _ in seeds]


def test_a_number_in_a_later_line_does_not_count(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Oracle.answer
    monkeypatch.setattr(Oracle, "answer", lambda self, text: "\n" + right(self, text))
    assert ask(oracle, [prompt_of(oracle, 0.5)]) == [[False]]


def test_greedy_answers_in_padded_batches_are_those_of_single_prompts(export_of: Callable[..., Path]) -> None:
    subject = load_subject(str(export_of("shared_diff-layer-layer")), "cpu", "auto", 200)
    draw = random.Random(5)
    prompts = [[draw.randrange(299) for _ in range(length)] for length in (3, 30, 17, 9, 30)]
    together = subject.continue_greedily(prompts, 6)
    for prompt, answer in zip(prompts, together, strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert answer == ids[len(prompt) :]


def uniform(folder: Path) -> Any:
    """The folder's model with queries of zero: every map is uniform over the keys it may see."""
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    return model


@pytest.mark.parametrize("kind", ["llama", "diff"])
def test_attention_scores_of_uniform_maps(kind: str, stock_llama: Path, export_of: Callable[..., Path]) -> None:
    """A uniform softmax gives each key 1/t, a differential map (1 - lambda)/t."""
    folder = stock_llama if kind == "llama" else export_of("diff")
    loaded = load_subject(str(folder), "cpu", "auto", 4096)
    subject = LoadedSubject(loaded.name, uniform(folder), loaded.tokenizer, 600, 4096)
    draw = random.Random(2)
    prompt = build_prompt(subject, sentences(draw), 400, 0.5, (1, 1), draw)
    number = prompt.asked[0].number
    asked = len(subject.encode(f"{prompt.text} {number}"))
    said = len(subject.encode(number))
    keys = range(asked - said, asked)  # the keys that the queries before each token of the number see
    span = len(subject.encode(number))
    context = prompt.text[: prompt.text.rindex("\nWhat ")]
    noise = len(subject.encode(context)) - len(subject.encode(prompt.asked[0].sentence))
    found = dict(zip(KINDS, measure(subject, prompt), strict=True))
    mean = sum(1 / count for count in keys) / len(keys)
    assert found["answer_normalised"] == pytest.approx(span * mean, rel=1e-3)
    assert found["noise_normalised"] == pytest.approx(noise * mean, rel=0.03)  # tokens that straddle an end
    scale = 1.0
    if kind == "diff":
        weights = [1 - float(layer.self_attn.combination_weight()) for layer in subject.model.model.layers]
        scale = sum(weights) / len(weights)
    assert found["answer_raw"] == pytest.approx(span * mean * scale, rel=1e-3)


def test_attention_over_depths_reports_its_definition(stock_llama: Path) -> None:
    from scripts.evaluation import attention
    from scripts.evaluation.settings import AttentionSettings

    subject = load_subject(str(stock_llama), "cpu", "auto", 4096)
    chosen = AttentionSettings(length=300, depths=[0.0, 1.0], samples=2)
    result = attention.run(subject, EvaluateConfig("", "", attention=chosen), None)
    assert set(result.details["answer_normalised"]) == {"0", "1"}
    assert "A1 - lambda A2" in result.settings["definition"]
    assert result.metrics["answer_normalised"].count == 4
    assert subject.model.config._attn_implementation == "sdpa"  # left as it was
