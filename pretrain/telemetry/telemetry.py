"""Opens the recorder for one step, and brings what it took to rank 0.

In: the parts of a run. Out: the numbers of the steps that are due, ready for metrics.jsonl. Always: a step that is not
due costs nothing, neither on the device nor on the wire; the losses are the same bits with and without.
"""

import math
from typing import Any

from model.recorder import Recorder
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine, StepResult
from pretrain.step_lines import TELEMETRY
from pretrain.telemetry.names import GRADIENT_NORM, by_layer, known_numbers
from pretrain.telemetry.packing import Packing
from pretrain.telemetry.updates import UpdateWatch

DIGITS = 6
"""significant digits that are kept"""


class Telemetry:
    """Numbers from inside, every ``metrics.telemetry_every`` steps; all micro-batches of such a step count."""

    def __init__(self, config: RunConfig, engine: Engine, recorder: Recorder) -> None:
        self._every = config.metrics.telemetry_every
        self._last = config.train.steps
        self._engine = engine
        self._recorder = recorder
        if self._every:
            self._packing = Packing(known_numbers(config.model))
            self._updates = UpdateWatch(engine, recorder)

    def due(self, done: int) -> bool:
        """Whether the step after which ``done`` steps are done is one to look into."""
        return self._every > 0 and (done % self._every == 0 or done == self._last)

    def begin(self) -> None:
        """Before the step."""
        self._recorder.open()
        self._updates.begin()

    def end(self, result: StepResult) -> dict[str, Any]:
        """After the step: the numbers on rank 0, nothing on the others; a collective call."""
        self._updates.end()
        packed = self._packing.pack(self._recorder.close(), self._engine.device)
        self._packing.reduce(packed)
        if not self._engine.topology.is_main:
            return {}
        numbers = before_clipping(self._packing.unpack(packed), result.grad_norm)
        return {TELEMETRY: by_layer({name: rounded(number) for name, number in numbers.items()})}


def before_clipping(numbers: dict[str, float], grad_norm: float) -> dict[str, float]:
    """The gradient norms of the parts such that together they have the norm of the step, ``grad_norm``."""
    parts = [number for name, number in numbers.items() if name.startswith(f"{GRADIENT_NORM}/")]
    whole = math.hypot(*parts)
    scale = grad_norm / whole if whole > 0 else math.nan
    return {
        name: number * scale if name.startswith(f"{GRADIENT_NORM}/") or name.endswith(f".{GRADIENT_NORM}") else number
        for name, number in numbers.items()
    }


def rounded(number: float) -> float:
    """To ``DIGITS`` significant digits, which keeps the lines short."""
    return float(f"{number:.{DIGITS}g}")
