"""Long-context loss: the cumulative average negative log-likelihood by position (DIFF paper, figure 4).

In: long held-out samples. Out: the average loss of the first t tokens, over t. Always: every sample has the full
length; the interval is over samples.
"""

from typing import Any

import numpy as np

from scripts.evaluation.held_out import losses_by_block, open_samples
from scripts.evaluation.pictures import draw_curves
from scripts.evaluation.result import TaskResult
from scripts.evaluation.settings import EvaluateConfig
from scripts.evaluation.statistics import Estimate, mean
from scripts.evaluation.subject import Subject


def run(subject: Subject, settings: EvaluateConfig, provenance: dict[str, Any] | None) -> TaskResult:
    """Measures the curve at powers of two and at the full length."""
    held_out = open_samples(subject, settings, provenance)
    losses = np.concatenate([block for _, block in losses_by_block(subject, held_out, samples=1)])
    cumulative = losses.cumsum(axis=1) / np.arange(1, losses.shape[1] + 1)
    curve = {position: mean(cumulative[:, position - 1]) for position in _positions(losses.shape[1])}
    metrics = {f"loss_of_first_{position}": estimate for position, estimate in curve.items()}
    settings_used = {"data": held_out.data, "samples": held_out.count, "sequence_length": held_out.sequence_length}
    return TaskResult(metrics, settings_used, draw=lambda figure: _draw(figure, subject.name, curve))


def _positions(length: int) -> list[int]:
    powers = [2**exponent for exponent in range(4, length.bit_length())]
    return [position for position in powers if position < length] + [length]


def _draw(figure: Any, name: str, curve: dict[int, Estimate]) -> None:
    title = "average loss of the first t tokens"
    points = {float(position): estimate for position, estimate in curve.items()}
    draw_curves(figure.subplots(), {name: points}, "t", "nats per token", title, log_x=True)
