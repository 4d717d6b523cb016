"""Random delays before every collective and message: what a race between exchange and arithmetic cannot survive.

In: any code that communicates. Out: the same results, later; where a result is read before it has arrived, another one.
Always: it acts below torch.distributed, as pretrain/plan/ledger.py does, so every call of every library is delayed.

    with Delays(seed=rank, longest=0.02):
        engine.train_step(micro_batches, learning_rate)

Give each rank another seed: a partner that is late shows who did not wait for it.
"""

import random
import time
from typing import Any

from pretrain.torch_compat import dispatch_mode


class Delays(dispatch_mode()):  # type: ignore[misc]
    """Sleeps before each exchange that this rank starts while it is active."""

    def __init__(self, seed: int, longest: float, shortest: float = 0.0) -> None:
        """``shortest`` to ``longest`` seconds, drawn evenly."""
        super().__init__()
        self._random = random.Random(seed)
        self._bounds = shortest, longest
        self.count = 0
        """exchanges that were delayed"""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.namespace == "c10d":
            self.count += 1
            time.sleep(self._random.uniform(*self._bounds))
        return function(*args, **(kwargs or {}))
