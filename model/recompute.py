"""Activation checkpointing: give memory back in the forward pass, compute it again in the backward pass.

In: a function of tensors. Out: its value. Always: the same bits as without, because nothing in the model is random.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import checkpoint

ActivationCheckpointing = Literal["none", "selective", "full"]


def recomputed(
    function: Callable[..., Tensor],
    *arguments: Any,
    second_time: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """``function(*arguments)``, keeping only the arguments for the backward pass.

    ``second_time`` makes the context in which the backward pass calls ``function`` again.
    """
    return checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), second_time()),
    )
