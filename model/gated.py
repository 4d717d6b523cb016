"""The product behind a gate, which the feed-forward network ends in.

In: what computes swish(gate) * up, gate and up [..., F], a weight [D, F], and how the output leaves (model/leaving.py).
Out: (swish(gate) * up) W^T [..., D]. Always: the same bits, recomputed or not.
"""

from collections.abc import Callable

from torch import Tensor

from model.kernels.rowwise.swiglu import SwigluKernel
from model.leaving import ALONE, Hidden, Output, leaving_linear
from model.packed import linear


def gated_linear(kernel: SwigluKernel, gate: Tensor, up: Tensor, weight: Tensor, output: Output = ALONE) -> Tensor:
    """(swish(gate) * up) W^T; keeps gate, up and their product, 3 F numbers for each token."""
    return linear(kernel(gate, up), weight, output)


def recomputed_gated_linear(
    kernel: SwigluKernel, gate: Tensor, up: Tensor, weight: Tensor, output: Output = ALONE
) -> Tensor:
    """The same; keeps gate and up, 2 F numbers, and makes their product again, for which it takes no matrix product."""
    return leaving_linear(_Gate(kernel), output, (gate, up), weight)


class _Gate(Hidden):
    """swish(gate) * up of (gate, up)."""

    def __init__(self, kernel: SwigluKernel) -> None:
        self.kernel = kernel

    def of(self, *inputs: Tensor) -> Tensor:
        return self.kernel.forward(*inputs)

    def again(self, *inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        return self.kernel.again(*inputs)
