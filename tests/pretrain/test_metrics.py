"""A step is told with its own loss beside the mean since the last line, without what the device does not know."""

import math

import pytest
import torch

from pretrain.engines.engine import StepResult
from pretrain.metrics import StepMeter


def taken(loss: float, applied: bool = True) -> StepResult:
    return StepResult(loss, grad_norm=1.5, applied=applied)


def test_the_mean_loss_is_over_the_tokens_since_the_last_line_that_reached_the_weights() -> None:
    meter = StepMeter(world_size=1, flops_per_token=6.0, peak_flops=None)
    meter.count(300, taken(5.0))
    meter.pause()  # an evaluation stops the clock, and forgets no loss
    meter.count(300, taken(math.nan, applied=False))
    meter.count(700, taken(3.0))
    line = meter.record(3, 1300, taken(3.0), 1e-3)
    assert (line["loss"], line["mean_loss"]) == (3.0, pytest.approx((300 * 5.0 + 700 * 3.0) / 1000))
    meter.count(700, taken(2.0))
    assert meter.record(4, 2000, taken(2.0), 1e-3)["mean_loss"] == 2.0
    meter.count(700, taken(math.inf, applied=False))
    assert meter.record(5, 2700, taken(math.inf, applied=False), 1e-3)["mean_loss"] is None


def test_a_cpu_has_no_memory_to_tell_and_a_gpu_what_it_took_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = StepMeter(world_size=1, flops_per_token=6.0, peak_flops=None)
    meter.count(300, taken(5.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = meter.record(1, 300, taken(5.0), 1e-3)
    assert not [name for name in line if "memory" in name]
    assert line["model_flops_utilization"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1234)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 5678)
    line = meter.record(2, 600, taken(5.0), 1e-3)
    assert (line["peak_memory_bytes"], line["reserved_memory_bytes"]) == (1234, 5678)


def test_utilization_is_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = StepMeter(world_size=4, flops_per_token=6.0, peak_flops=30.0)
    monkeypatch.setattr("pretrain.metrics.time.perf_counter", lambda: 107.0)
    meter._since = 100.0
    meter.count(140, taken(5.0))
    line = meter.record(1, 140, taken(5.0), 1e-3)
    assert line["tokens_per_second"] == 20.0
    assert line["model_flops_utilization"] == pytest.approx(20 * 6 / 4 / 30)
