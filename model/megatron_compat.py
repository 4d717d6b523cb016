"""megatron-core as this project takes it: the parts in use, and what they take for granted that a machine may not have.

In: nothing. Out: megatron-core's names, for the two files that use them; a patched name of torch. Always: only this
file imports megatron-core or changes a library for it; with CUDA ``let_megatron_run_on_cpu`` changes nothing;
tests/model/test_megatron_compat.py holds the reasons.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def _only_what_is_used() -> Iterator[None]:
    """Keeps megatron-core from loading torch's compiler and wandb, half of the time that a rank needs to start.

    megatron-core decorates fused functions with ``torch.compile`` as soon as it is imported, and that loads a compiler;
    the functions belong to layers that are not in use here. wandb it asks for, and does without where it is missing.
    """
    compiler, is_loaded = torch.compile, "wandb" in sys.modules
    torch.compile = _as_it_is  # type: ignore[assignment]
    if not is_loaded:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        yield
    finally:
        torch.compile = compiler
        if not is_loaded:
            del sys.modules["wandb"]


def _as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    return function if function is not None else _as_it_is


with _only_what_is_used():
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import mappings

__all__ = ["ModelParallelConfig", "let_megatron_run_on_cpu", "mappings", "parallel_state", "tensor_parallel"]


def let_megatron_run_on_cpu() -> None:
    """Makes ``torch.cuda.current_device()`` answer the CPU on a machine without CUDA.

    megatron-core's gathers and scatters allocate their results there, whatever device their input lies on.
    """
    if not torch.cuda.is_available():
        torch.cuda.current_device = _cpu_device  # type: ignore[assignment]


def _cpu_device() -> torch.device:
    return torch.device("cpu")
