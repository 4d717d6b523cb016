"""Random waits before every exchange: a run whose ranks are never at the same place.

In: a seed, other on every rank. Out: a context in which each collective call begins late. Always: nothing but time
changes, so losses must not.
"""

import random
import time
from typing import Any

from pretrain.torch_compat import dispatch_mode


class Delays(dispatch_mode()):  # type: ignore[misc]
    """Waits up to ``longest`` seconds before each call of torch.distributed."""

    def __init__(self, seed: int, longest: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._longest = longest
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.namespace == "c10d":
            self.count += 1
            time.sleep(self._random.random() * self._longest)
        return function(*args, **(kwargs or {}))
