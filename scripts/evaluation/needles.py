"""Multi-needle retrieval (Shared DIFF paper, Table 4; DIFF paper, figure 5 and Table 3).

In: lengths, depths, (N, R) pairs. Out: the share of answers that hold the right number, per length and depth.
Always: the first asked needle lies at the stated depth, the other needles anywhere; every question is asked in the
completion style that a base model understands; a prompt with its answers fits the length.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

from scripts.evaluation.needle_prompt import NeedlePrompt, build_prompt
from scripts.evaluation.needle_text import haystack, stem
from scripts.evaluation.pictures import draw_grid
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig, NeedleSettings
from scripts.evaluation.statistics import proportion
from scripts.evaluation.subject import Ids, Subject


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Retrieval inside 4K tokens: (N, R) = (1, 1) (2, 2) (4, 2) (6, 2)."""
    return _measure(subject, settings.needles, settings.seed)


def run_long(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Retrieval from 8K to 64K tokens: N = 8, R = 1."""
    return _measure(subject, settings.needles_long, settings.seed)


def _measure(subject: Subject, settings: NeedleSettings, seed: int) -> TaskResult:
    for length in settings.lengths:
        subject.check_length(length, "needles: a length of the settings")
    cells = list(product(settings.pairs, settings.lengths, settings.depths))
    table: list[dict[str, Any]] = []
    subject.progress.total = settings.samples * sum(length for _, length, _ in cells)
    for number, (pair, length, depth) in enumerate(cells, 1):
        subject.progress.title = f"needles: {length:,} tokens, depth {depth:.0%} (cell {number} of {len(cells)})"
        table.append(_measure_cell(subject, settings, length, depth, (pair[0], pair[1]), seed))
        asked = sum(row["samples"] * row["pair"][1] for row in table)
        subject.progress.result = f"{sum(row['right'] for row in table)} of {asked} answers right"
        subject.progress.add(settings.samples * length, 0)
    metrics = {}
    for pair in settings.pairs:
        rows = [row for row in table if row["pair"] == list(pair)]
        name = f"needles_{pair[0]}_asked_{pair[1]}"
        samples = sum(row["samples"] for row in rows)
        # the R answers of one prompt are not independent: the interval counts prompts
        right = sum(row["right"] for row in rows) / pair[1]
        metrics[name] = proportion(right, samples)
        if pair[1] > 1:
            metrics[f"{name}_all_right"] = proportion(sum(row["all_right"] for row in rows), samples)
    chance = {f"needles_{pair[0]}": 1 / pair[0] if pair[0] > 1 else 1 / 9_000_000 for pair in settings.pairs}
    return TaskResult(
        metrics,
        {
            "lengths": list(settings.lengths),
            "depths": list(settings.depths),
            "pairs": [list(pair) for pair in settings.pairs],
            "samples_per_cell": settings.samples,
            "haystack": settings.haystack or "sentences of a small grammar",
        },
        {"cells": table, "chance_of_any_needles_number": chance},
        draw=lambda figure: _draw(figure, settings, table),
    )


def _measure_cell(
    subject: Subject, settings: NeedleSettings, length: int, depth: float, pair: tuple[int, int], seed: int
) -> dict[str, Any]:
    draw = random.Random(f"{seed}/{length}/{depth}/{pair}")
    pieces = haystack(settings.haystack, draw)
    prompts = [build_prompt(subject, pieces, length, depth, pair, draw) for _ in range(settings.samples)]
    right = ask(subject, prompts)
    return {
        "pair": list(pair),
        "length": length,
        "depth": depth,
        "samples": len(prompts),
        "right": sum(map(sum, right)),
        "all_right": sum(map(all, right)),
        "accuracy": sum(map(sum, right)) / (len(prompts) * pair[1]),
    }


def ask(subject: Subject, prompts: Sequence[NeedlePrompt]) -> list[list[bool]]:
    """For each prompt and asked needle: does the model's answer hold the number?

    The model goes on from its own answer, token by token: a text of its tokens may take more of them than it wrote, as
    bytes that are no UTF-8 do, and the prompt would outgrow its length.
    """
    ids = [list(subject.encode(prompt.text)) for prompt in prompts]
    right: list[list[bool]] = [[] for _ in prompts]
    for turn in range(len(prompts[0].asked)):
        room = subject.max_length - max(map(len, ids))
        most = min(room, max(prompt.answer_tokens for prompt in prompts))
        right_answers = [subject.encode(f" {prompt.asked[turn].number}\n") for prompt in prompts]
        answers = subject.continue_greedily(ids, most, right_answers)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            line = _first_line(subject, answer)
            right[index].append(prompt.asked[turn].number in subject.decode(answer).split("\n")[0])
            if turn + 1 < len(prompt.asked):
                ids[index] += line[: prompt.answer_tokens]
                ids[index] += subject.encode(f"\n{stem(prompt.asked[turn + 1].city)}")
    return right


def _first_line(subject: Subject, answer: Ids) -> list[int]:
    """The tokens before the first one with a line break."""
    ends = (index for index, token in enumerate(answer) if "\n" in subject.decode([token]))
    return list(answer[: next(ends, len(answer))])


def _draw(figure: Any, settings: NeedleSettings, table: list[dict[str, Any]]) -> None:
    """One heat map of depth over length per pair, a column for each length; with a single length, over pairs."""
    cells = {(tuple(row["pair"]), row["length"], row["depth"]): row["accuracy"] for row in table}
    rows = [f"{depth:.0%}" for depth in settings.depths]
    pairs = [(pair[0], pair[1]) for pair in settings.pairs]
    if len(settings.lengths) == 1:
        columns = [f"N={pair[0]}, R={pair[1]}" for pair in pairs]
        values = [[cells[pair, settings.lengths[0], depth] for pair in pairs] for depth in settings.depths]
        draw_grid(
            figure.subplots(), values, rows, columns, f"accuracy at {settings.lengths[0]:,} tokens", ("depth", "")
        )
        return
    all_axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, pair in zip(all_axes, pairs, strict=True):
        values = [[cells[pair, length, depth] for length in settings.lengths] for depth in settings.depths]
        columns = [f"{length // 1024}K" if length % 1024 == 0 else f"{length:,}" for length in settings.lengths]
        draw_grid(axes, values, rows, columns, f"N={pair[0]}, R={pair[1]}", ("depth", "tokens"))
