"""Steps whose loss or gradient norm is out of all proportion, kept from the weights and recorded.

In: loss and global gradient norm of each step, equal on every rank, known before the optimizer acts.
Out: a reason to skip the step, or None; after too many skips, the steps to roll back over.

The rule, for the loss and for the logarithm of the gradient norm alike: m is the median of the last `RECENT` steps that
were applied. s is the noise of one step: 1.4826 / sqrt(2) times the median absolute difference between neighbours
among the last `window` applied steps (for normal noise, its standard deviation; a slow fall hardly enters). A step is
skipped if its value lies more than `deviations` * max(s, floor) above m; the floors are 2 % of the median loss, and 0.2
for the logarithm. Of several steps in a row whose gradient norm alone lies out, only the first is skipped: the weights
are still the same, so if the next batch gives such a gradient, too, it comes from the weights, as it does when a model
learns something new, and clipping bounds the step. A value that is not finite is skipped always, any other only after
`WARM_UP` applied steps. More than `max_skips` skips within `window` steps ask for a rollback to before the first of
them.

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
LOG_NORM_FLOOR = 0.2


class SpikeGuard:
    """The rule and what it remembers."""

    def __init__(self, window: int = 128, deviations: float = 10.0, max_skips: int = 8) -> None:
        """The numbers of the rule; ``window`` is at least ``WARM_UP``."""
        self._window = window
        self._deviations = deviations
        self._max_skips = max_skips
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
        if len(self._losses) < WARM_UP:
            return None
        middle, noise = _middle_and_noise(self._losses)
        deviation = (loss - middle) / max(noise, RELATIVE_LOSS_FLOOR * abs(middle))
        if deviation > self._deviations:
            return f"loss {loss:.4g} lies {deviation:.0f} deviations above the median {middle:.4g}"
        deviation = self._norm_deviation(grad_norm)
        if deviation > self._deviations and not self._norm_was_out:
            median = math.exp(_middle_and_noise(self._log_norms)[0])
            return f"gradient norm {grad_norm:.4g} lies {deviation:.0f} deviations above the median {median:.4g}"
        return None

    def took(self, step: int, loss: float, grad_norm: float, applied: bool) -> None:
        """Remembers step ``step``, counted from 0, after the decision about it."""
        self._norm_was_out = self._norm_deviation(grad_norm) > self._deviations
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
        """The inverse of ``state``; a changed window keeps the newest values."""
        self._losses.extend(state["losses"])
        self._log_norms.extend(state["log_norms"])
        self._skipped_steps = list(state["skipped_steps"])
        self._norm_was_out = state["norm_was_out"]

    def _norm_deviation(self, grad_norm: float) -> float:
        """How far the logarithm of the norm lies above its median; 0 while there is nothing to compare with."""
        if len(self._log_norms) < WARM_UP or not math.isfinite(grad_norm):
            return 0.0
        middle, noise = _middle_and_noise(self._log_norms)
        return (_log(grad_norm) - middle) / max(noise, LOG_NORM_FLOOR)


def _middle_and_noise(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    spread = statistics.median(abs(after - before) for before, after in itertools.pairwise(values))
    return statistics.median(values[-RECENT:]), MAD_TO_SIGMA * spread / math.sqrt(2)


def _log(norm: float) -> float:
    return math.log(max(norm, 1e-30))  # a gradient of exactly zero is no spike
