"""Results beside those of plain fp64.

In: two functions of the same tensors. Out: nothing, or WrongResult, which says what differs and by how much. Always:
inputs are rounded to the type first, so that what is compared is the computation's own error, relative to the largest
expected value, or to a smallest one that counts: what cancels leaves rounding alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""of outputs; gradients may be off by twice as much"""
TINY = 1e-30


class WrongResult(Exception):
    """What is computed is not what the equation says."""


def expect_close(found: Tensor, expected: Tensor, tolerance: float, what: str, smallest: float = TINY) -> None:
    """Raises WrongResult where the largest difference is too large, or not a number."""
    found, expected = found.detach().double(), expected.detach().to(found.device).double()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=smallest))
    if not error <= tolerance:
        raise WrongResult(f"{what}: off by {error:.1e} of the largest value, allowed are {tolerance:.1e}")


def expect_equal(found: Tensor, expected: Tensor, what: str) -> None:
    """Raises WrongResult where one bit differs."""
    if not torch.equal(found, expected):
        raise WrongResult(f"{what}: has changed")


def drawn(*shapes: tuple[int, ...], seed: int = 2) -> list[Tensor]:
    """Normal numbers, fp64 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def compare(
    found: Callable[..., Sequence[Tensor]],
    expected: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    device: str,
    dtype: torch.dtype,
    tolerance: float | None = None,
    smallest: Sequence[float] | None = None,
) -> None:
    """Outputs and gradients of ``found`` in ``dtype`` on ``device`` beside those of ``expected`` in fp64.

    ``smallest``: of each input's gradient, what its errors are compared with where it is smaller.
    """
    allowed = TOLERANCE[dtype] if tolerance is None else tolerance
    rounded = [x.to(device, dtype).requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    floors = [TINY] * len(inputs) if smallest is None else smallest
    mine, wanted = found(*rounded), expected(*exact)
    directions = [torch.randn_like(y) for y in mine]
    of_mine = torch.autograd.grad(mine, rounded, directions)
    of_wanted = torch.autograd.grad(wanted, exact, [direction.double() for direction in directions])
    for number, (y, reference) in enumerate(zip(mine, wanted, strict=True)):
        expect_close(y, reference, allowed, f"output {number}")
    for number, (gradient, reference, floor) in enumerate(zip(of_mine, of_wanted, floors, strict=True)):
        expect_close(gradient, reference, 2 * allowed, f"gradient of input {number}", floor)
    if any(x.dtype != dtype for x in (*mine, *of_mine)):
        raise WrongResult("outputs or gradients have another type than the inputs")
