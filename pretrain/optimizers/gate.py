"""The gate before the update: the last place where a bad step can be kept from the weights.

In: who decides. Out: one answer for each optimizer step. Always: asked once per step, however often DeepSpeed calls
the optimizer (once for each parameter group or partition, after the global gradient norm is known).
"""

from collections.abc import Callable


class Gate:
    """Open or closed for one optimizer step."""

    def __init__(self, decide: Callable[[], bool]) -> None:
        self._decide = decide
        self._open: bool | None = None

    def begin_step(self) -> None:
        """Forgets the answer of the step before."""
        self._open = None

    def is_open(self) -> bool:
        """The answer for this step; decided at the first call since ``begin_step``."""
        if self._open is None:
            self._open = self._decide()
        return self._open

    @property
    def was_open(self) -> bool:
        """Whether the step since ``begin_step`` reached the weights."""
        return self._open is True
