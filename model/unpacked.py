"""Linear maps of one sequence-split input that run one by one, as ZeRO 3 wants it.

In: the input, gathered once for all of them. Out: x W^T of each. Always: each keeps this rank's part of the input only;
their backward passes gather it again together, the first for all.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.exchange import InputExchange


class SplitInput:
    """This rank's part of what ``readers`` maps read whole."""

    def __init__(self, part: Tensor, exchange: InputExchange, readers: int) -> None:
        self.part = part.detach()
        self.again = _Again(exchange, readers)


class _Again:
    """The whole input in the backward pass; holds it from the first of the readers to the last."""

    def __init__(self, exchange: InputExchange, readers: int) -> None:
        self._exchange = exchange
        self._readers = self._waiting = readers
        self._whole: Tensor | None = None

    def whole(self, part: Tensor) -> Tensor:
        """For one reader."""
        whole = self._exchange.gather(part)() if self._whole is None else self._whole
        self._waiting -= 1
        self._whole = whole if self._waiting else None
        self._waiting = self._waiting or self._readers  # all over again, where a graph is walked twice
        return whole


class _LinearOfSplitInput(torch.autograd.Function):
    """(the whole input, a weight, where its parts are) to x W^T."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, weight: Tensor, split: SplitInput) -> Tensor:
        ctx.again = split.again
        ctx.save_for_backward(split.part, weight)
        return F.linear(whole, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        part, weight = ctx.saved_tensors
        whole, gradient = ctx.again.whole(part), gradients[0]
        return gradient @ weight, gradient.flatten(0, -2).t() @ whole.flatten(0, -2), None


def linear_of_split_input(whole: Tensor, weight: Tensor, split: SplitInput) -> Tensor:
    """``whole`` W^T, remembering ``split`` in its place."""
    result: Tensor = _LinearOfSplitInput.apply(whole, weight, split)
    return result
