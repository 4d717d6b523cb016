"""What a step is worth knowing: speed and utilization, in the shape that every sink takes.

In: the result and the duration of steps. Out: one flat dict per logged step.
Always: the loss is the mean over all tokens of the global batch; rates and `mean_loss` are means since the last
logged line, the latter over the steps that reached the weights; what the device does not tell has no entry.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pretrain.devices import device_peak_flops
from pretrain.engines.engine import StepResult


@dataclass
class StepMeter:
    """Turns step results into metrics."""

    world_size: int
    flops_per_token: float
    """forward and backward, without recomputation (model/counts.py states the formula)"""
    peak_flops: float | None = field(default_factory=device_peak_flops)
    _since: float = field(default_factory=time.perf_counter)
    _steps: int = 0
    _tokens: int = 0
    _waited: float = 0.0
    _losses: list[tuple[float, int]] = field(default_factory=list)
    """of the steps since the last line: loss, tokens"""

    def pause(self) -> None:
        """Starts the clock anew, so that evaluations and saves do not count as training time."""
        self._since, self._steps, self._tokens, self._waited = time.perf_counter(), 0, 0, 0.0

    def count(self, tokens: int, result: StepResult, waited: float = 0.0) -> None:
        """One more step, of ``tokens`` over all ranks, has been taken, after ``waited`` seconds for its data."""
        self._waited += waited
        self._steps += 1
        self._tokens += tokens
        if result.applied:
            self._losses.append((result.loss, tokens))

    def record(self, step: int, tokens: int, result: StepResult, learning_rate: float) -> dict[str, Any]:
        """The metrics after ``step`` steps and ``tokens`` in all; starts the clock anew."""
        elapsed = time.perf_counter() - self._since
        seconds, waited = elapsed / max(1, self._steps), self._waited / max(1, self._steps)
        rate = self._tokens / elapsed
        self.pause()
        achieved = self.flops_per_token * rate / self.world_size
        return {
            "step": step,
            "tokens": tokens,
            "loss": result.loss,
            "mean_loss": self._take_mean_loss(),
            "learning_rate": learning_rate,
            "grad_norm": result.grad_norm,
            "applied": result.applied,
            "tokens_per_second": rate,
            "step_seconds": seconds,
            "data_seconds": waited,
            "model_flops_utilization": achieved / self.peak_flops if self.peak_flops else None,
            **device_memory(),
        }

    def _take_mean_loss(self) -> float | None:
        """None where no step since the last line reached the weights."""
        tokens = sum(count for _, count in self._losses)
        total = math.fsum(loss * count for loss, count in self._losses)
        self._losses.clear()
        return total / tokens if tokens else None


def device_memory() -> dict[str, int]:
    """Bytes of this rank's GPU, the most since the start: what tensors took, what was kept for them; none on a CPU."""
    if not torch.cuda.is_available():
        return {}
    return {
        "peak_memory_bytes": torch.cuda.max_memory_allocated(),
        "reserved_memory_bytes": torch.cuda.max_memory_reserved(),
    }
