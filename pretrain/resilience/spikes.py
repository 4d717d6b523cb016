"""Steps whose loss is out of all proportion, kept from the weights and recorded.

In: loss and global gradient norm of each step, equal on every rank, known before the optimizer acts.
Out: a reason to skip the step, or None; after too many skips, the steps to roll back over.

How far a value lies out: m is the median of the last `RECENT` steps that were applied. s is the noise of one step:
1.4826 / sqrt(2) times the median absolute difference between neighbours among the last `window` applied steps (for
normal noise, its standard deviation; a slow fall hardly enters). The distance from m is counted in max(s, floor); the
floor is 2 % of the median loss and at least `LOSS_FLOOR`, and 0.2 for the logarithm of the gradient norm. A step is
skipped

- if loss or norm is not finite, always; all else only after `WARM_UP` applied steps;
- if its loss lies more than `deviations` above m;
- if its norm does, and its loss lies out, too, by `SUPPORTING` of that;
- if its norm is `FAULTY_NORM` times the median or more: that is a machine's fault and no text's. Where nothing clips,
  `deviations` are enough. Of several such steps in a row only the first is skipped: the weights are still the same, so
  what comes again comes from them.

A norm that leaps while the loss stays where it was is else no reason: so it looks when a model learns something new,
such as to copy, and clipping bounds the step (docs/failures.md has the figures). More than `max_skips` skips within
`window` steps ask for a rollback to before the first of them.

Always: a pure function of the values seen so far, so all ranks and a resumed run decide alike; skipped values never
enter the window; the state is JSON.
"""

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

WARM_UP = 32
"""applied steps that are needed before the rule can judge"""
RECENT = 16
"""applied steps that a step is compared with"""
MAD_TO_SIGMA = 1.4826
RELATIVE_LOSS_FLOOR = 0.02
LOSS_FLOOR = 0.05
"""in nats: losses of texts known by heart leap to many times their tiny median, and no harm is done"""
LOG_NORM_FLOOR = 0.2
SUPPORTING = 0.5
"""share of the deviations by which the loss must lie out where the norm does"""
FAULTY_NORM = 1000.0
"""times the median norm that no batch gives"""
SMALLEST = 1e-30
"""smallest norm of which a logarithm is taken"""


class SpikeGuard:
    """The rule and what it remembers."""

    def __init__(
        self, window: int = 128, deviations: float = 10.0, max_skips: int = 8, clips_gradients: bool = True
    ) -> None:
        """The numbers of the rule; ``window`` is at least ``WARM_UP``."""
        self._window = window
        self._deviations = deviations
        self._max_skips = max_skips
        self._clips_gradients = clips_gradients
        self._losses: deque[float] = deque(maxlen=window)
        self._log_norms: deque[float] = deque(maxlen=window)
        self._skipped_steps: list[int] = []
        self._norm_was_out = False

    def keeps(self, loss: float, grad_norm: float) -> bool:
        """Whether a step with these values may reach the weights."""
        return self.reason_to_skip(loss, grad_norm) is None

    def reason_to_skip(self, loss: float, grad_norm: float) -> str | None:
        """Why a step with these values must not reach the weights; None: it may."""
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if not math.isfinite(value):
                return f"{name} is {value}"
        if not self._can_judge():
            return None
        loss_lies, middle = self._loss_deviation(loss)
        if loss_lies > self._deviations:
            return f"loss {loss:.4g} lies {loss_lies:.0f} deviations above the median {middle:.4g}"
        norm_lies, median = self._norm_deviation(grad_norm)
        if norm_lies > self._deviations and loss_lies > SUPPORTING * self._deviations:
            return (
                f"gradient norm {grad_norm:.4g} lies {norm_lies:.0f} deviations above the median {median:.4g}, "
                f"loss {loss:.4g} {loss_lies:.0f} above {middle:.4g}"
            )
        if self._is_reason_alone(grad_norm) and not self._norm_was_out:
            if self._clips_gradients:
                return f"gradient norm {grad_norm:.4g} is {FAULTY_NORM:.0f} times the median {median:.4g} or more"
            return (
                f"gradient norm {grad_norm:.4g} lies {norm_lies:.0f} deviations above the median {median:.4g}, "
                "and nothing clips it"
            )
        return None

    def took(self, step: int, loss: float, grad_norm: float, applied: bool) -> None:
        """Remembers step ``step``, counted from 0, after the decision about it."""
        self._norm_was_out = self._is_reason_alone(grad_norm)
        if applied:
            self._losses.append(loss)
            self._log_norms.append(_log(grad_norm))
        else:
            self._skipped_steps.append(step)
        self._skipped_steps = [skipped for skipped in self._skipped_steps if skipped > step - self._window]

    def begin_anew(self) -> None:
        """What comes is not to be compared with what was: a new stage of the data begins."""
        self._losses.clear()
        self._log_norms.clear()

    def steps_to_roll_back(self) -> list[int]:
        """The skipped steps that are too many; empty while they are not."""
        return list(self._skipped_steps) if len(self._skipped_steps) > self._max_skips else []

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "losses": list(self._losses),
            "log_norms": list(self._log_norms),
            "skipped_steps": list(self._skipped_steps),
            "norm_was_out": self._norm_was_out,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``; a changed window keeps the newest values, and what is missing stays as it is."""
        self._losses.extend(state.get("losses", ()))
        self._log_norms.extend(state.get("log_norms", ()))
        self._skipped_steps = list(state.get("skipped_steps", self._skipped_steps))
        self._norm_was_out = bool(state.get("norm_was_out", self._norm_was_out))

    def _can_judge(self) -> bool:
        return min(len(self._losses), len(self._log_norms)) >= WARM_UP

    def _loss_deviation(self, loss: float) -> tuple[float, float]:
        """How far the loss lies above its median, and that median."""
        middle, noise = _middle_and_noise(self._losses)
        floor = max(LOSS_FLOOR, RELATIVE_LOSS_FLOOR * abs(middle))
        return (loss - middle) / max(noise, floor), middle

    def _norm_deviation(self, grad_norm: float) -> tuple[float, float]:
        """How far the logarithm of the norm lies above its median, and the median norm."""
        middle, noise = _middle_and_noise(self._log_norms)
        return (_log(grad_norm) - middle) / max(noise, LOG_NORM_FLOOR), math.exp(middle)

    def _is_reason_alone(self, grad_norm: float) -> bool:
        """Whether the norm counts whatever the loss is; False while there is nothing to compare with."""
        if not self._can_judge() or not math.isfinite(grad_norm):
            return False
        if not self._clips_gradients:
            return self._norm_deviation(grad_norm)[0] > self._deviations
        return _log(grad_norm) >= statistics.median(list(self._log_norms)[-RECENT:]) + math.log(FAULTY_NORM)


def _middle_and_noise(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    spread = statistics.median(abs(after - before) for before, after in itertools.pairwise(values))
    return statistics.median(values[-RECENT:]), MAD_TO_SIGMA * spread / math.sqrt(2)


def _log(norm: float) -> float:
    return math.log(max(norm, SMALLEST))  # a gradient of exactly zero is no spike
