"""Attention logits of few bits: the grid, and what it does to the loss."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.evaluate import evaluate
from scripts.evaluation.quantised import quantised
from scripts.evaluation.settings import EvaluateConfig, HeldOutSettings, QuantisedSettings


def test_logits_come_to_stand_on_an_even_grid_of_each_sample() -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    causal = torch.ones(5, 7, dtype=torch.bool).tril(2)
    logits[:, ~causal] = 1e6  # which no query sees
    for bits in (2, 4, 7):
        found = quantised(logits, causal, bits)
        for sample, rounded in zip(logits.numpy(), found.numpy(), strict=True):
            seen = sample[causal.numpy()]
            step = np.abs(seen).max() / (2 ** (bits - 1) - 1)
            assert np.allclose(rounded[causal.numpy()], np.rint(seen / step) * step)
            assert len(np.unique(np.rint(seen / step))) <= 2**bits - 1


@pytest.mark.parametrize("kind", ["standard-grouped", "diff", "shared_diff-layer-layer", "diff_v2-grouped"])
def test_many_bits_leave_the_loss_and_few_do_not(kind: str, export_of: Callable[..., Path]) -> None:
    settings = EvaluateConfig(
        str(export_of(kind)),
        "held_out,quantised",
        held_out=HeldOutSettings(samples=3),
        quantised=QuantisedSettings(samples=3, bits=[24, 8, 2]),
    )
    found = evaluate(settings)
    metrics = found["quantised"].metrics
    assert metrics["loss"].value == pytest.approx(found["held_out"].metrics["loss"].value, abs=1e-9)
    rises = [abs(metrics[f"loss_rise_{bits}_bits"].value) for bits in (24, 8, 2)]
    assert rises[0] < 1e-5 < rises[1] < rises[2]
