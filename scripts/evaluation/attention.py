"""Attention to the answer and to noise (Shared DIFF paper, Table 5; DIFF paper, Table 3).

In: needle prompts. Out: how much attention the tokens that say the number give to the number in the context, and how
much to irrelevant text; per depth, averaged over heads and layers.

Definition: queries are the positions that predict the number, teacher-forced. The map is the one that multiplies the
values: softmax, or A1 - lambda A2 (DIFF), or A1 - sigmoid(lambda) A2 (DIFF V2). `raw` is the signed sum over the span;
`normalised` divides absolute values by their sum over all keys, which for a softmax is the same number. The answer
span is the number's tokens in the needle; noise is all of the context but the needle that is asked for.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.needle_prompt import NeedlePrompt, build_prompt
from scripts.evaluation.needle_text import haystack
from scripts.evaluation.pictures import draw_curves
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import Estimate, mean
from scripts.hub.loading import ATTENTION

KINDS = ("answer_normalised", "noise_normalised", "answer_raw", "noise_raw")


def run(subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures attention scores at every depth."""
    chosen = settings.attention
    subject.check_length(chosen.length, "--attention.length")
    by_depth: dict[float, np.ndarray] = {}
    subject.model.set_attn_implementation(ATTENTION)
    subject.progress.total = len(chosen.depths) * chosen.samples
    for depth in chosen.depths:
        draw = random.Random(f"{settings.seed}/attention/{depth}")
        pieces = haystack(chosen.haystack, draw)
        prompts = [
            build_prompt(subject, pieces, chosen.length, depth, (chosen.needles, 1), draw)
            for _ in range(chosen.samples)
        ]
        found = []
        for prompt in prompts:
            found.append(measure(subject, prompt))
            subject.progress.add(1, chosen.length)
        by_depth[depth] = np.array(found)
        subject.progress.result = f"{by_depth[depth][:, 0].mean():.4f} on the answer at depth {depth:.0%}"
    table = {
        kind: {depth: mean(values[:, column]) for depth, values in by_depth.items()}
        for column, kind in enumerate(KINDS)
    }
    everything = np.concatenate(list(by_depth.values()))
    return TaskResult(
        {kind: mean(everything[:, column]) for column, kind in enumerate(KINDS)},
        {
            "length": chosen.length,
            "depths": list(chosen.depths),
            "needles": chosen.needles,
            "samples_per_depth": chosen.samples,
            "haystack": chosen.haystack or "sentences of a small grammar",
            "definition": " ".join((__doc__ or "").split("Definition: ")[1].split()),
        },
        {kind: {f"{depth:g}": estimate.to_json() for depth, estimate in row.items()} for kind, row in table.items()},
        draw=lambda figure: _draw(figure, table),
    )


def measure(subject: LoadedSubject, prompt: NeedlePrompt) -> tuple[float, ...]:
    """The numbers of ``KINDS`` for one prompt, averaged over the queries, heads and layers."""
    number = prompt.asked[0].number
    text = f"{prompt.text} {number}"
    ids, offsets = subject.encode_with_offsets(text)
    question_start = prompt.text.rindex("\nWhat ")
    needle_start = prompt.text.rindex("\n", 0, prompt.span[0])
    answer = _tokens_within(offsets, *prompt.span)
    needle = _tokens_within(offsets, needle_start, prompt.span[1])
    context = _tokens_within(offsets, 0, question_start)
    noise = sorted(set(context) - set(needle))
    said = _tokens_within(offsets, len(prompt.text) + 1, len(text))
    maps = subject.attention_maps(ids[: said[-1]], queries=said[-1] - said[0] + 1)
    sums = []
    for layer in maps:  # [H, queries, U]
        absolute = layer.abs().double()
        total = absolute.sum(-1)
        shares = [absolute[..., span].sum(-1) / total for span in (answer, noise)]
        shares += [layer.double()[..., span].sum(-1) for span in (answer, noise)]
        sums.append([float(share.mean()) for share in shares])
    return tuple(np.mean(sums, axis=0).tolist())


def _tokens_within(offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """The tokens that overlap the characters ``start`` to ``end``."""
    return [index for index, (first, last) in enumerate(offsets) if first < end and last > start]


def _draw(figure: Any, table: dict[str, dict[float, Estimate]]) -> None:
    curves = {kind.split("_")[0]: table[kind] for kind in ("answer_normalised", "noise_normalised")}
    axes = figure.subplots()
    draw_curves(axes, curves, "depth of the answer", "share of the attention", "attention to the answer and to noise")
    axes.set_ylim(bottom=0)
