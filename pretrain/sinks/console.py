"""One line per logged step or evaluation, for who looks over the run's shoulder.

In: metrics. Out: lines on standard output. Always: what is not known (MFU, memory on a CPU) is left out, not 0.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pretrain.devices import GIB
from pretrain.sinks.base import Sink


class Console(Sink):
    """Prints."""

    title = "console"

    def __init__(self, total_steps: int) -> None:
        self._total_steps = total_steps

    def write(self, metrics: Mapping[str, Any]) -> None:
        when = datetime.fromisoformat(metrics["time"]).astimezone()
        step = f"step {metrics['step']:>{len(str(self._total_steps))}}/{self._total_steps}"
        parts = _of_evaluation(metrics) if "validation_loss" in metrics else self._of_step(metrics)
        print(f"{when:%m-%d %H:%M:%S}  {step}  {'  '.join(parts)}", flush=True)

    def close(self) -> None:
        """Nothing to do."""

    def _of_step(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        yield f"loss {metrics['loss']:.4f}"
        mean = metrics.get("mean_loss")
        if mean is not None and mean != metrics["loss"]:
            yield f"mean {mean:.4f}"
        yield f"grad norm {metrics['grad_norm']:.3f}"
        yield f"lr {metrics['learning_rate']:.2e}"
        yield f"{metrics['tokens_per_second']:,.0f} tokens/s"
        if "peak_memory_bytes" in metrics:
            used, reserved = (metrics[f"{what}_memory_bytes"] / GIB for what in ("peak", "reserved"))
            yield f"memory {used:.1f}, reserved {reserved:.1f} GiB"
        if metrics["model_flops_utilization"]:
            yield f"MFU {metrics['model_flops_utilization']:.1%}"
        left = (self._total_steps - metrics["step"]) * metrics["step_seconds"]
        yield f"left {timedelta(seconds=round(left))}"
        if not metrics["applied"]:
            yield "SKIPPED"


def _of_evaluation(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield f"validation loss {metrics['validation_loss']:.4f}"
    bits = metrics["validation_bits_per_byte"]
    if bits is not None:
        yield f"{bits:.4f} bits/byte"
    yield f"perplexity {metrics['validation_perplexity']:.1f}"
