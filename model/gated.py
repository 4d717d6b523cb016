"""The product behind a gate, which the feed-forward network ends in.

In: gate and up [..., F], a weight [D, F], and how the output leaves (model/leaving.py). Out: (swish(gate) * up) W^T
[..., D]. Always: the same bits, recomputed or not.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.leaving import ALONE, Hidden, Output, leaving_linear
from model.packed import linear


def gated_linear(gate: Tensor, up: Tensor, weight: Tensor, output: Output = ALONE) -> Tensor:
    """(swish(gate) * up) W^T; keeps 4 F numbers for each token."""
    return linear(F.silu(gate) * up, weight, output)


def recomputed_gated_linear(gate: Tensor, up: Tensor, weight: Tensor, output: Output = ALONE) -> Tensor:
    """The same; keeps gate and up, 2 F numbers, and makes the others again, for which it takes no matrix product."""
    return leaving_linear(_Gate(), output, (gate, up), weight)


class _Gate(Hidden):
    """swish(gate) * up of (gate, up)."""

    def of(self, *inputs: Tensor) -> Tensor:
        gate, up = inputs
        return F.silu(gate).mul_(up)

    def again(self, *inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]:
        gate, up = inputs
        swish = F.silu(gate)

        def of_inputs(gradient: Tensor) -> tuple[Tensor, ...]:
            of_up = swish.mul_(gradient)
            return torch.ops.aten.silu_backward(gradient.mul_(up), gate), of_up

        return swish * up, of_inputs
