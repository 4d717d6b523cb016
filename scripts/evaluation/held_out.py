"""Held-out loss, bits per byte and perplexity, as the trainer measures them.

In: the subject and held-out data. Out: estimates over samples of the trained length. Always: on the trainer's own
tokens the loss is the trainer's own, to rounding; what the trainer measured stands beside it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import mean
from scripts.evaluation.subject import Subject
from scripts.evaluation.texts import HeldOutSamples, open_held_out
from scripts.hub.places import read_places

SAMPLES_PER_PASS = 64


@dataclass(frozen=True)
class Opened:
    """Held-out samples as the settings and the training run ask for them."""

    samples: HeldOutSamples
    data: str
    count: int
    sequence_length: int
    within_documents: bool
    trainer: dict[str, Any] | None
    """what the trainer measured on these very samples"""


def open_samples(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> Opened:
    """Opens the held-out data.

    Raises:
        InputError: no data was named and the folder does not say which was used in training.
    """
    config = provenance["config"] if provenance else None
    trained = provenance["validation"] if provenance else None
    data = settings.data or read_places(Path(settings.model), provenance).validation
    if data is None:
        raise InputError(
            "--data: name held-out data: a folder of token shards, or text as for `python -m data prepare`"
        )
    chosen = settings.held_out
    length = chosen.sequence_length or (config["data"]["sequence_length"] if config else min(subject.max_length, 2048))
    wanted = chosen.samples
    if wanted is None:
        wanted = (trained or {}).get("validation_samples") or 0
    samples = open_held_out(data, subject, length, wanted, settings.text_field)
    count = min(wanted, samples.num_samples) if wanted else samples.num_samples
    within_documents = bool(config and config["data"]["document_attention"])
    held_out_id = (provenance.get("validation_data") or {}).get("id") if provenance else None
    is_same = (
        trained is not None
        and config is not None
        and samples.same_tokens
        and samples.dataset_id == held_out_id
        and count == trained.get("validation_samples")
        and length == config["data"]["sequence_length"]
    )
    return Opened(samples, data, count, length, within_documents, trained if is_same else None)


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures the mean loss per token."""
    held_out = open_samples(subject, settings, provenance)
    samples = held_out.samples
    losses = np.concatenate([block for _, block in losses_by_block(subject, held_out)])
    loss = mean(losses.mean(axis=1))
    metrics = {
        "loss": loss,
        "perplexity": loss.map(lambda nats: math.exp(min(nats, 700.0))),
    }
    if samples.bytes_per_token:  # not known of an adopted corpus
        bits = 1 / math.log(2) / samples.bytes_per_token
        metrics["bits_per_byte"] = loss.map(lambda nats: nats * bits)
    return TaskResult(
        metrics,
        {
            "data": held_out.data,
            "samples": held_out.count,
            "sequence_length": held_out.sequence_length,
            "trainer_tokens": samples.same_tokens,
        },
        {"unigram_entropy": samples.unigram_entropy, "trainer": held_out.trainer},
    )


def losses_by_block(
    subject: Subject, held_out: Opened, samples: int = SAMPLES_PER_PASS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers [n] and losses [n, T] of all samples, ``samples`` at a time; progress tells their mean so far."""
    total, subject.progress.total = 0.0, held_out.count
    for first in range(0, held_out.count, samples):
        numbers = np.arange(first, min(first + samples, held_out.count))
        losses = sample_losses(subject, held_out.samples, numbers, held_out.within_documents)
        total += losses.mean(axis=1).sum()
        done = first + len(numbers)
        subject.progress.result = f"loss {total / done:.4f} of {done:,} samples"
        subject.progress.add(len(numbers), 0)
        yield numbers, losses


def sample_losses(
    subject: Subject, samples: HeldOutSamples, numbers: np.ndarray, within_documents: bool = False
) -> np.ndarray:
    """Losses [n, T] of the samples with these numbers."""
    from data.batch import document_starts

    tokens = samples.fetch(numbers)
    starts = torch.from_numpy(document_starts(tokens[:, :-1], samples.eod_id)) if within_documents else None
    return subject.token_losses(torch.from_numpy(tokens), starts).double().numpy()
