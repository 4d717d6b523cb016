"""What takes metrics, and the names that dashboards of others get for them.

In: the dicts of pretrain/metrics.py and of evaluations. Out: one call of each sink. Always: no sink can stop a run.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from common.urls import without_credentials
from pretrain.step_lines import TELEMETRY

VALIDATION = "validation_"
Target = TypeVar("Target")


class Sink(ABC):
    """Takes metrics."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What the first lines of a run call it, and where it is to be looked at."""

    @abstractmethod
    def write(self, metrics: Mapping[str, Any]) -> None:
        """One training step or evaluation."""

    @abstractmethod
    def close(self) -> None:
        """The run ends."""


class Dashboard(Sink, Generic[Target]):
    """A sink that belongs to another program, ``target``: what fails there turns this sink off, not the run."""

    name: str

    def __init__(self, target: Target) -> None:
        self._target: Target | None = target

    def write(self, metrics: Mapping[str, Any]) -> None:
        numbers, step = dict(dashboard_numbers(metrics)), metrics["step"]
        self._attempt(lambda target: self._send(target, numbers, step))

    def close(self) -> None:
        self._attempt(self._finish)

    @abstractmethod
    def _send(self, target: Target, numbers: dict[str, float], step: int) -> None:
        """Hands the numbers of a step over."""

    @abstractmethod
    def _finish(self, target: Target) -> None:
        """Nothing more will come."""

    def _attempt(self, call: Callable[[Target], None]) -> None:
        if self._target is None:
            return
        try:
            call(self._target)
        except Exception as error:
            print(f"{self.name} is off from here: {without_credentials(str(error))}", flush=True)
            self._target = None


def dashboard_numbers(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each number by its name there: "train/loss", "validation/loss", "telemetry/attention.lambda/03".

    Those of blocks end with the block's number; what is not known has no entry.
    """
    for name, value in _flat(metrics):
        if isinstance(value, int | float) and name != "step":
            yield _shown(name), int(value) if isinstance(value, bool) else value


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _flat({f"{layer:02d}": number for layer, number in enumerate(value)}, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _shown(name: str) -> str:
    if name.startswith(f"{TELEMETRY}/"):
        return name
    if name.startswith(VALIDATION):
        return f"validation/{name.removeprefix(VALIDATION)}"
    return f"train/{name}"
