"""Held-out loss split into AR-hits and Others (DIFF paper, Table 6).

In: held-out samples, and training text to count bigrams in. Out: both losses and the share of hits.
Always: what counts as frequent in training, and where it was counted, stands beside the numbers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.drawn import literally
from common.errors import InputError
from data.ar_hits import FrequentBigrams, ar_hits, count_frequent
from scripts.evaluation.held_out import SAMPLES_PER_PASS, Opened, losses_by_block, open_samples
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import Estimate, ratio
from scripts.evaluation.subject import Subject
from scripts.evaluation.texts import HeldOutSamples, open_held_out
from scripts.hub.places import read_places


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures the two losses."""
    held_out = open_samples(subject, settings, provenance)
    frequent, source = _frequent(subject, settings, held_out, provenance)
    sums: dict[str, list[np.ndarray]] = {"ar_hit": [], "others": [], "hits": [], "rest": []}
    for numbers, losses in losses_by_block(subject, held_out):
        hits = ar_hits(held_out.samples.fetch(numbers), frequent)
        sums["ar_hit"].append((losses * hits).sum(1))
        sums["others"].append((losses * ~hits).sum(1))
        sums["hits"].append(hits.sum(1))
        sums["rest"].append((~hits).sum(1))
    totals = {name: np.concatenate(parts) for name, parts in sums.items()}
    metrics = {
        "loss": ratio(totals["ar_hit"] + totals["others"], totals["hits"] + totals["rest"], settings.seed),
        "ar_hit_loss": ratio(totals["ar_hit"], totals["hits"], settings.seed),
        "others_loss": ratio(totals["others"], totals["rest"], settings.seed),
        "share_of_hits": ratio(totals["hits"], totals["hits"] + totals["rest"], settings.seed),
    }
    return TaskResult(
        metrics,
        {
            "data": held_out.data,
            "samples": held_out.count,
            "sequence_length": held_out.sequence_length,
            "frequent_bigrams_counted_in": source,
            "counted_bigrams": frequent.counted,
            "frequent_bigrams": len(frequent.keys),
            "frequent_above_share": settings.ar_hit.frequent_share,
        },
        draw=lambda figure: _draw(figure, subject.name, metrics),
    )


def _frequent(
    subject: Subject, settings: EvaluateConfig, held_out: Opened, provenance: dict[str, Any] | None
) -> tuple[FrequentBigrams, str]:
    """Counted in the named training text, else in the run's, else in the held-out text itself."""
    chosen = settings.ar_hit
    training = chosen.training or read_places(Path(settings.model), provenance).training
    source, name = held_out.samples, "the held-out text itself"
    if training is not None:
        length = held_out.sequence_length
        needed = -(-chosen.training_tokens // length)
        try:
            source = open_held_out(training, subject, length, needed, settings.text_field, "--ar_hit.training")
            name = training
        except InputError:
            if chosen.training is not None:
                raise
    counted = count_frequent(_blocks(source, chosen.training_tokens), subject.vocab_size, chosen.frequent_share)
    return counted, name


def _blocks(source: HeldOutSamples, most_tokens: int) -> Iterator[np.ndarray]:
    """The first samples, up to ``most_tokens`` tokens."""
    tokens = 0
    for first in range(0, source.num_samples, SAMPLES_PER_PASS):
        if tokens >= most_tokens:
            return
        block = source.fetch(np.arange(first, min(first + SAMPLES_PER_PASS, source.num_samples)))
        tokens += block.size
        yield block


def _draw(figure: Any, name: str, metrics: dict[str, Estimate]) -> None:
    losses = {kind: metrics[kind] for kind in ("ar_hit_loss", "others_loss", "loss")}
    axes = figure.subplots()
    values = [estimate.value for estimate in losses.values()]
    below = [max(0.0, estimate.value - estimate.low) for estimate in losses.values()]
    above = [max(0.0, estimate.high - estimate.value) for estimate in losses.values()]
    bars = axes.bar(["AR-hits", "others", "all"], values, yerr=[below, above], capsize=4)
    axes.bar_label(bars, fmt="%.3f", label_type="center", color="white")
    share = metrics["share_of_hits"].value
    axes.set(ylabel="nats per token", title=f"{literally(name)}: {100 * share:.1f} % of the tokens are AR-hits")
    axes.grid(alpha=0.3, axis="y")
