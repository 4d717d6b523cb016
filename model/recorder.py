"""The one exit for numbers from inside the model.

In: small tensors, recorded under a name by the layer that computes them. Out: for each place and name a partial result
that can be added up over micro-batches and ranks, and how to finish it. Always: a closed recorder does nothing; an open
one adds up on the device and waits for nobody. Who opens it, and who adds up over the ranks, is pretrain/telemetry's
business.

A value may be recorded by any number of ranks: of the heads or tokens that each of them holds, or a whole copy on each.
Means and root mean squares divide by what was recorded, largest values do not mind, so both give what one process would
have found. Only a "norm" adds up, and must be recorded once for each element of the model.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

Reduce = Literal["mean", "rms", "norm", "max"]
"""How the values under one name become one number:
    mean    sum of the values / number of values (or sum of ``over``)
    rms     sqrt(sum of squares / number of values (or sum of squares of ``over``))
    norm    sqrt(sum of squares)
    max     the largest value"""


@dataclass(frozen=True)
class Recorded:
    """What one rank knows of one number."""

    reduce: Reduce
    parts: Tensor
    """fp64: (sum, weight), or for "max" the largest value alone, [1]"""

    def plus(self, other: "Recorded") -> "Recorded":
        """Both, as if recorded at once."""
        if self.reduce == "max":
            return Recorded(self.reduce, torch.maximum(self.parts, other.parts))
        return Recorded(self.reduce, self.parts + other.parts)


def finished(reduce: Reduce, total: float, weight: float) -> float:
    """The number, from the parts of all ranks; NaN where nobody recorded anything."""
    if weight == 0:
        return math.nan
    if reduce == "norm":
        return math.sqrt(total)
    return math.sqrt(total / weight) if reduce == "rms" else total / weight


@dataclass
class _Page:
    """What all places of one recorder write to."""

    open: bool = False
    entries: dict[str, Recorded] = field(default_factory=dict)


class Recorder:
    """Takes numbers while it is open; a new one is closed.

    ``within`` gives each layer its place, so that a layer need not know which one it is.
    """

    def __init__(self) -> None:
        self._page = _Page()
        self._place = ""

    @property
    def recording(self) -> bool:
        """Whether this forward pass is recorded; a layer asks before it computes anything for ``record`` only."""
        return self._page.open

    def within(self, place: str) -> "Recorder":
        """The same recorder, whose names start with ``place``, as in "blocks.3.attention."."""
        inner = Recorder()
        inner._page, inner._place = self._page, self._place + place
        return inner

    @torch.no_grad()
    def record(self, name: str, values: Tensor, reduce: Reduce, over: Tensor | None = None) -> None:
        """Adds ``values`` to what is known under ``name``; nothing where the recorder is closed.

        What is computed for this call only is computed where ``recording`` is true and under ``torch.no_grad()``: a
        block that is recomputed must keep the same tensors for its gradient whether it is recorded or not.

        Args:
            name: what it is, without the layer, as in "entropy".
            values: any shape.
            reduce: how values become one number.
            over: for "mean" and "rms" of quotients: what they are divided by, instead of their number.
        """
        if not self._page.open:
            return
        entry = Recorded(reduce, _parts(values, reduce, over))
        before = self._page.entries.get(self._place + name)
        self._page.entries[self._place + name] = entry if before is None else before.plus(entry)

    def open(self) -> None:
        """Starts an empty page."""
        self._page.entries = {}
        self._page.open = True

    def close(self) -> dict[str, Recorded]:
        """Ends recording; what was recorded since ``open``, by name, in the order of the model."""
        self._page.open = False
        entries, self._page.entries = self._page.entries, {}
        return entries

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it nothing is recorded: a forward pass that runs a second time, for its gradient."""
        was_open, self._page.open = self._page.open, False
        try:
            yield
        finally:
            self._page.open = was_open


def look_at_weight(module: nn.Module, recorder: Recorder, look: Callable[[Tensor], None]) -> None:
    """Calls ``look(module.weight)``, without gradients, at the end of every recorded forward pass of ``module``.

    That is where the weight is whole on this rank even where ZeRO 3 partitions it.
    """

    @torch.no_grad()
    def after_forward(owner: nn.Module, inputs: object, output: object) -> None:
        if recorder.recording:
            weight = owner.weight
            assert isinstance(weight, Tensor)
            look(weight)

    module.register_forward_hook(after_forward)
    module.look = after_forward  # type: ignore[assignment]


def weight_was_used(module: nn.Module) -> None:
    """Lets ``look_at_weight`` look where the weight took part in a product without a forward pass of ``module``."""
    look = getattr(module, "look", None)
    if look is not None:
        look(module, None, None)


def _parts(values: Tensor, reduce: Reduce, over: Tensor | None) -> Tensor:
    if reduce == "max":
        return values.amax().double().view(1)
    if reduce == "mean":
        total, weight = values.sum(dtype=torch.float64), None if over is None else over.sum(dtype=torch.float64)
    else:
        total, weight = _square_sum(values), None if over is None else _square_sum(over)
    if weight is None:
        weight = torch.full((), float(values.numel()), dtype=torch.float64, device=values.device)
    return torch.stack([total, weight])


def _square_sum(values: Tensor) -> Tensor:
    """The sum of the squares, added up in fp64."""
    precise = values.to(torch.promote_types(values.dtype, torch.float32))
    return precise.square().sum(dtype=torch.float64)
