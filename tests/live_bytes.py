"""How many bytes of tensors are alive, and how many were at most: memory as the CPU's tests can see it.

In: code that runs while a ``LiveBytes`` is active. Out: bytes of the storages that this code has made and still holds.
Always: a storage counts once, however many tensors look at it, and from the operation that makes it until it is freed.
What only gloo's threads still hold, after an exchange that has ended, does not count.
"""

import time
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LETTING_GO = 0.005
"""seconds within which one of gloo's threads lets go of the tensors of an exchange that has ended"""


class LiveBytes(TorchDispatchMode):
    """Counts what the operations under it allocate, but for storages of the tensors in ``known``."""

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self._has_exchanged = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self._has_exchanged |= function.namespace == "c10d"
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._alive:
            self._alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            if self.now > self.peak and self._has_exchanged:
                time.sleep(LETTING_GO)
                self._has_exchanged = False
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)
