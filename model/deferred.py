"""Gradients of weights, in the backward pass or after it.

In: the weights of one product and the product that gives their gradients. Out: the gradients, or nothing yet where they
are deferred. Always: a deferred gradient is the same product of the same values, and reaches its parameter by autograd
as any other, so that hooks see no difference; per weight, gradients come in the order of the backward passes.

What goes back to the layers before is the gradient of the input only. A pipeline stage sends that first and computes
the gradients of its weights while it would wait for another stage (pretrain/engines/zero_bubble.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, autograd, nn

Finish = Callable[[], tuple[Tensor, ...]]
"""computes the gradient of each of some weights"""
Start = Callable[[], Finish]
"""asks other ranks for what the product needs"""
Keep = Callable[[Start], None]
"""takes a product that is to be computed later"""


class DeferredGradients:
    """Keeps the products of each backward pass until they are asked for.

    Args:
        weights: parameters whose linear layers leave their products here from now on.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._passes: deque[deque[tuple[Sequence[Tensor], Start]]] = deque()
        for weight in weights:
            weight.deferred = self  # type: ignore[attr-defined]

    def forget(self) -> None:
        """Drops what a step has left that was not finished."""
        self._passes.clear()

    def begin_pass(self) -> None:
        """The backward pass of the next micro-batch begins."""
        self._passes.append(deque())

    def keep(self, weights: Sequence[Tensor], start: Start) -> None:
        """Takes one product of the pass that has begun last, with all that it reads."""
        self._passes[-1].append((weights, start))

    def compute_oldest(self) -> None:
        """Computes the gradients of the oldest pass, in the order in which it came to them.

        What a product needs from other ranks comes while the one before it is computed.
        """
        products, ready = self._passes.popleft(), deque[tuple[Sequence[Tensor], Finish]]()
        while products or ready:
            if products:
                weights, start = products.popleft()
                ready.append((weights, start()))
            if len(ready) > 1 or not products:
                weights, finish = ready.popleft()
                _Arrival.apply(finish, *weights).backward()


def keeper_of(weights: Sequence[Tensor]) -> Keep | None:
    """Who takes the product of these weights' gradients; None: it belongs into the backward pass."""
    deferred: DeferredGradients | None = getattr(weights[0], "deferred", None)
    return None if deferred is None else partial(deferred.keep, weights)


class _Arrival(autograd.Function):
    """A graph of its own whose backward pass is the product: autograd then keeps its result without a copy."""

    @staticmethod
    def forward(ctx: Any, finish: Finish, *weights: Tensor) -> Tensor:
        ctx.finish = finish
        return weights[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.finish()
