"""Small functions of tensors that torch's compiler fuses into one pass over memory.

In: a function. Out: the same, compiled when it is first called. Always: where there is no compiler, or it fails, the
function runs as it is written, which is said once; compiled code needs a C++ compiler on a CPU, Triton on a GPU.
"""

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from common.output import say

P = ParamSpec("P")
R = TypeVar("R")


class Compiled(Generic[P, R]):
    """``function``, compiled for each kind of its arguments."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.written: Callable[P, R] = function
        self._compiled: Callable[P, R] | None = None
        self._failed = False

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R:
        if self._failed:
            return self.written(*arguments, **named)
        if self._compiled is None:
            self._compiled = torch.compile(self.written)
        try:
            return self._compiled(*arguments, **named)
        except Exception as error:  # a compiler may fail in any way; what is wrong with the arguments is raised again
            result = self.written(*arguments, **named)
            self._failed = True
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"{self.written.__name__}: not compiled, runs as it is written: {reason}")
            return result
