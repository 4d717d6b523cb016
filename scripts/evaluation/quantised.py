"""Held-out loss with attention logits of few bits (DIFF paper: fewer outliers, so fewer bits do).

In: held-out samples, numbers of bits. Out: the loss with logits as they are, and how much it rises with each number of
bits. Always: the logits of a head, a sample at a time, are rounded to 2^bits - 1 even steps from minus to plus the
largest absolute value among its causal pairs; nothing else is rounded.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.evaluation.calls import attending, causal_logits
from scripts.evaluation.held_out import open_samples, sample_losses
from scripts.evaluation.loaded import LoadedSubject
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import Estimate, mean


def run(subject: LoadedSubject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures the same samples with every number of bits."""
    held_out = open_samples(subject, settings, provenance)
    count = min(settings.quantised.samples, held_out.count)
    numbers = np.arange(count)

    def losses() -> np.ndarray:
        found: np.ndarray = sample_losses(subject, held_out.samples, numbers, held_out.within_documents).mean(axis=1)
        return found

    subject.progress.total = 1 + len(settings.quantised.bits)
    plain = losses()
    subject.progress.add(1, 0)
    metrics: dict[str, Estimate] = {"loss": mean(plain)}
    for bits in settings.quantised.bits:
        with attending(subject, f"quantised_{bits}", lambda *call, bits=bits, **named: _attend(bits, *call, **named)):
            metrics[f"loss_rise_{bits}_bits"] = rise = mean(losses() - plain)
        subject.progress.result = f"{bits} bits: {rise.value:+.4f}"
        subject.progress.add(1, 0)
    return TaskResult(
        metrics, {"data": held_out.data, "samples": count, "sequence_length": held_out.sequence_length}, {}
    )


def quantised(logits: Tensor, causal: Tensor, bits: int) -> Tensor:
    """``logits`` [B, U, T] on a grid of 2^bits - 1 steps; each sample has its own."""
    largest = logits.masked_fill(~causal, 0.0).abs().amax(dim=(-2, -1), keepdim=True).clamp(min=1e-30)
    step = largest / (2 ** (bits - 1) - 1)
    return (logits / step).round() * step


def _attend(
    bits: int, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **named: Any
) -> tuple[Tensor, None]:
    """The attention of one layer. A mask that is more than causal (documents) is kept to."""
    group = query.shape[1] // value.shape[1]
    heads = []
    for head, (logits, causal) in enumerate(causal_logits(query, key, named.get("scaling"))):
        allowed = causal if mask is None else causal & mask[:, 0]
        shares = quantised(logits, causal, bits).masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        heads.append(shares @ value[:, head // group])
    return torch.stack(heads, dim=2), None
