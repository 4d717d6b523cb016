"""Samples and prompts longer than a chunk: the numbers of one whole pass, in memory that grows with their length."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from transformers import MistralConfig, MistralForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from common.errors import InputError
from scripts.evaluation import needles
from scripts.evaluation.chunks import in_chunks
from scripts.evaluation.constrained import build_trie, classify
from scripts.evaluation.loaded import LoadedSubject, load_subject
from scripts.evaluation.settings import NeedleSettings
from tests.live_bytes import LiveBytes

KINDS = ["standard-grouped", "diff", "shared_diff-layer-layer", "diff_v2-grouped"]
LENGTH = 61
FP32 = {"atol": 1e-5, "rtol": 2e-6}  # a loss is up to 10
END = 299
"""ends a document"""


def reading(folder: Path, chunk_tokens: int, batch_tokens: int = 8192) -> LoadedSubject:
    """The model of ``folder``, allowed any length."""
    return load_subject(str(folder), "cpu", "auto", batch_tokens, chunk_tokens=chunk_tokens, max_length=1 << 20)


@pytest.fixture(scope="module")
def sliding(stock_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers whose every layer forgets what lies 8 tokens back."""
    folder = tmp_path_factory.mktemp("sliding")
    sizes = {
        "vocab_size": 306,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = MistralConfig(**sizes, num_key_value_heads=2, sliding_window=9, initializer_range=0.3)
    torch.manual_seed(2)
    MistralForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((stock_llama / name).read_bytes())
    return folder


@pytest.fixture
def folder_of(export_of: Callable[..., Path], stock_llama: Path, sliding: Path) -> Callable[[str], Path]:
    strangers = {"llama": stock_llama, "sliding": sliding}
    return lambda kind: strangers[kind] if kind in strangers else export_of(kind)


@torch.no_grad()
def whole_losses(model: Any, tokens_BT: Tensor) -> Tensor:
    """In one pass, from all logits."""
    logits = model(tokens_BT[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), tokens_BT[:, 1:], reduction="none")


@pytest.mark.parametrize("chunk_tokens", [7, 16, LENGTH - 1])
@pytest.mark.parametrize("kind", [*KINDS, "llama", "sliding"])
def test_losses_of_chunks_are_those_of_one_pass(kind: str, chunk_tokens: int, folder_of: Callable[[str], Path]) -> None:
    subject = reading(folder_of(kind), chunk_tokens)
    tokens = torch.randint(299, (3, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    expected = whole_losses(subject.model, tokens)
    torch.testing.assert_close(subject.token_losses(tokens), expected, **FP32)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_across_the_edges_of_chunks_stay_apart(kind: str, folder_of: Callable[[str], Path]) -> None:
    """Against each document alone; one ends at an edge, one has a token, one is longer than two chunks."""
    subject = reading(folder_of(kind), chunk_tokens=7)
    tokens = torch.randint(299, (2, LENGTH + 1), generator=torch.Generator().manual_seed(4))
    ends = [(0, 5, 14, 15, 33, LENGTH), (0, 21, LENGTH)]
    starts = torch.zeros(2, LENGTH, dtype=torch.long)
    expected = torch.empty(2, LENGTH)
    for row, bounds in enumerate(ends):
        for first, last in itertools.pairwise(bounds):
            starts[row, first:last] = first
            expected[row, first:last] = whole_losses(subject.model, tokens[row : row + 1, first : last + 1])
    torch.testing.assert_close(subject.token_losses(tokens, starts), expected, **FP32)


@pytest.mark.parametrize("kind", ["shared_diff-layer-layer", "llama", "sliding"])
def test_answers_behind_chunks_are_those_of_single_prompts(kind: str, folder_of: Callable[[str], Path]) -> None:
    """In batches whose padding covers whole chunks, too; token 0, which also pads, is a token like others."""
    subject = reading(folder_of(kind), chunk_tokens=5, batch_tokens=200)
    draw = random.Random(5)
    prompts = [[draw.randrange(299) for _ in range(length)] for length in (3, 30, 17, 9, 30, 1)]
    prompts[4][::3] = [0] * 10
    for prompt, answer in zip(prompts, subject.continue_greedily(prompts, 6), strict=True):
        ids = list(prompt)
        for _ in range(6):
            with torch.no_grad():
                logits = subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits[subject.model.generation_config.eos_token_id] = -torch.inf  # an answer has its length
            ids.append(int(logits.argmax()))
        assert answer == ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["diff_v2-grouped", "llama", "sliding"])
def test_labels_behind_a_context_in_chunks(kind: str, folder_of: Callable[[str], Path]) -> None:
    """One query at a time goes on from the context's own cache, or from copies where a layer forgets."""
    labels = ["number", "human", "human being", "location", "thing"]
    context = "".join(f"Question: word {number} ?\nType: {labels[number % 5]}\n==\n" for number in range(9))
    queries = [f"Question: {text} ?\nType:" for text in ("a", "where is the thing at 77", "a")]
    whole, cut = (reading(folder_of(kind), chunk, rows) for chunk, rows in ((8192, 8192), (13, 1)))
    trie = build_trie(whole, labels)
    assert classify(cut, context, queries, trie) == classify(whole, context, queries, trie)


def test_attention_maps_behind_chunks_are_those_of_one_pass(folder_of: Callable[[str], Path]) -> None:
    whole, cut = (reading(folder_of("diff"), chunk) for chunk in (8192, 7))
    ids = torch.randint(299, (LENGTH,), generator=torch.Generator().manual_seed(6)).tolist()
    for found, expected in zip(cut.attention_maps(ids, 3), whole.attention_maps(ids, 3), strict=True):
        torch.testing.assert_close(found, expected, **FP32)


LONG = 2048
CHUNK = 128


def peak_of(subject: LoadedSubject, work: Callable[[], object]) -> int:
    """The most bytes of tensors that ``work`` needs beside the model."""
    with LiveBytes(subject.model.parameters()) as live:
        work()
    return live.peak


@pytest.mark.parametrize("question", ["losses", "losses in documents", "continuation", "labels", "attention"])
def test_memory_grows_with_the_length_not_its_square(question: str, folder_of: Callable[[str], Path]) -> None:
    """Twice the tokens, twice the bytes at most, and fewer than T x T masks take; no pass has more logits than a
    chunk."""
    subject = reading(folder_of("shared_diff-layer-layer"), CHUNK, batch_tokens=1 << 20)
    logits: list[int] = []
    watch = subject.model.register_forward_hook(lambda module, inputs, out: logits.append(out.logits.shape[1]))
    text = "the number of a thing is here.\n" * (LONG // 7)

    def ask(length: int) -> None:
        ids = subject.encode(text)[:length]
        tokens = torch.tensor([ids])
        starts = (torch.arange(length - 1) // 100 * 100)[None]
        match question:
            case "losses":
                subject.token_losses(tokens)
            case "losses in documents":
                subject.token_losses(tokens, starts)
            case "continuation":
                subject.continue_greedily([ids, ids[:50]], 3)
            case "labels":
                classify(subject, subject.decode(ids), ["Question: a\nType:"] * 2, build_trie(subject, ["a", "b"]))
            case "attention":
                subject.attention_maps(ids, 2)

    once, twice = (peak_of(subject, lambda length=length: ask(length)) for length in (LONG, 2 * LONG))
    assert once < twice < 2.1 * once
    assert twice < 2 * (2 * LONG) ** 2  # of at most two rows
    watch.remove()
    assert max(logits) <= CHUNK


def test_a_model_without_a_cache_is_refused_by_name_where_it_takes_several_chunks() -> None:
    class Forgetful:
        name_or_path = "some/model"

        def __call__(self, ids: Tensor, **options: Any) -> CausalLMOutputWithPast:
            return CausalLMOutputWithPast(logits=ids[..., None].float())

    model, ids = Forgetful(), torch.arange(10).view(1, 10)
    assert [(begin, end) for begin, end, _, _ in in_chunks(model, ids, 10)] == [(0, 10)]
    with pytest.raises(InputError, match=r"^--model some/model: returns no cache .* with --chunk-tokens 10$"):
        list(in_chunks(model, ids, 9))


def test_the_heat_map_has_a_column_for_each_length_and_a_row_for_each_depth() -> None:
    settings = NeedleSettings(lengths=[1000, 8192, 65536], pairs=[[8, 1], [8, 2]], depths=[0.0, 0.125, 1.0])
    table = [
        {"pair": pair, "length": length, "depth": depth, "accuracy": depth}
        for pair in settings.pairs
        for length in settings.lengths
        for depth in settings.depths
    ]
    figure = Figure()
    needles._draw(figure, settings, table)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "8K", "64K"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["0%", "12%", "100%"]
        assert axes.images[0].get_array().tolist() == [[depth] * 3 for depth in settings.depths]
