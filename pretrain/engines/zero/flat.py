"""One bucket in memory: flat weights and flat sums of gradients, and this rank's partition of both.

In: what DeepSpeed has allocated for one parameter group. Out: the same by name. Always: all ranks of the group hold a
partition of the same size, in the order of their ranks; the padding at the end is zero.
"""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class FlatBucket:
    """The tensors of one bucket on this rank."""

    parameters: tuple[nn.Parameter, ...]
    """in the order of the flat tensors, which begin with the first"""
    weights: Tensor
    """of all ranks, in the model's type; the parameters are views of it"""
    own_weights: Tensor
    """this rank's partition of ``weights``"""
    master: Tensor
    """this rank's partition in fp32, which the optimizer updates"""
    sums: Tensor | None
    """fp32 sums of this rank's gradients over micro-batches, as long as ``weights``; None: only ``own_sums`` is kept"""
    own_sums: Tensor
    """fp32 sums over the ranks, of this rank's partition"""

    @property
    def elements(self) -> int:
        """Of all parameters, without the padding."""
        return sum(parameter.numel() for parameter in self.parameters)

    def views_of(self, flat: Tensor) -> list[Tensor]:
        """The part of each parameter in a tensor that is laid out as ``weights``, in the parameter's shape."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = flat.narrow(0, 0, self.elements).split(sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]
