"""Every implementation of norm, gate, rotation and cross-entropy against its equation in fp64.

In: an implementation, a device and a type. Out: nothing, or WrongResult. Always: awkward sizes, strided inputs where
the model has them, forward and all gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.kernels.machine import Machine
from model.kernels.rowwise.choice import IMPLEMENTATIONS
from model.kernels.rowwise.cross_entropy import CrossEntropyKernel
from model.kernels.rowwise.norm import NormKernel
from model.kernels.rowwise.rotary import RotaryKernel
from model.kernels.rowwise.swiglu import SwigluKernel
from scripts.speed.comparing import TOLERANCE, compare, drawn, expect_close, expect_equal

EPS = 0.1


def runnable(operation: str, device: str, dtype: torch.dtype, left_out: Sequence[str] = ()) -> list[Any]:
    """The implementations that this machine can run, but for those in ``left_out``."""
    machine = Machine.here(device)
    usable = [one for one in IMPLEMENTATIONS[operation] if one.refusal(machine, dtype) is None]
    return [one for one in usable if one.name not in left_out]


def rowwise_checks(device: str, dtype: torch.dtype, left_out: Sequence[str] = ()) -> dict[str, Callable[[], None]]:
    """All of them, by name."""
    checks: dict[str, Callable[[], None]] = {}

    def add(kernel: Any, operation: str, check: Callable[..., None], *arguments: Any) -> None:
        checks[f"{operation}, {kernel.name}, {arguments}"] = lambda: check(kernel, device, dtype, *arguments)

    for kernel in runnable("norm", device, dtype, left_out):
        for shape in ((5, 3, 7), (67, 2, 192), (9, 1536)):
            add(kernel, "norm", check_norm, shape)
    for kernel in runnable("swiglu", device, dtype, left_out):
        for rows, width in ((5, 13), (67, 344)):
            add(kernel, "swiglu", check_swiglu, rows, width)
    for kernel in runnable("rotary", device, dtype, left_out):
        for heads, alike in (((3,), True), ((5, 2), False)):
            add(kernel, "rotary", check_rotary, heads, alike)
    for kernel in runnable("cross_entropy", device, dtype, left_out):
        add(kernel, "cross_entropy", check_cross_entropy, None)
    return checks


def check_norm(kernel: NormKernel, device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Alone and after a sum."""
    x, residual, weight = drawn(shape, shape, shape[-1:])

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight

    def alone(x: Tensor, weight: Tensor) -> list[Tensor]:
        return [kernel.norm(x, weight, EPS)]

    def after(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return kernel.add_norm(x, residual, weight, EPS)

    def exact_after(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return exact(x + residual, weight), x + residual

    compare(alone, lambda x, weight: [exact(x, weight)], [x, weight], device, dtype)
    compare(after, exact_after, [x, residual, weight], device, dtype)


def check_swiglu(kernel: SwigluKernel, device: str, dtype: torch.dtype, rows: int, width: int) -> None:
    """Gate and up are halves of one tensor, as the packed product leaves them, and nothing is written to them."""
    (both,) = drawn((rows, 3, 2 * width))

    def exact(both: Tensor) -> list[Tensor]:
        gate, up = both.split(width, dim=-1)
        return [gate / (1 + (-gate).exp()) * up]

    compare(lambda both: [kernel(*both.split(width, dim=-1))], exact, [both], device, dtype)
    gate, up = both.detach().to(device, dtype).split(width, dim=-1)
    (gradient,) = (x.to(device, dtype) for x in drawn((rows, 3, width), seed=3))
    before = gate.clone(), up.clone(), gradient.clone()
    of_both = kernel.backward(gradient, gate, up)
    product, gradients = kernel.again(gate, up)
    for mine, wanted in zip((gate, up, gradient), before, strict=True):
        expect_equal(mine, wanted, "gate, up or the gradient")
    expect_close(product, kernel.forward(gate, up), TOLERANCE[dtype], "product made again")
    for mine, wanted in zip(gradients(gradient), of_both, strict=True):
        expect_close(mine, wanted, TOLERANCE[dtype], "gradient of who has not kept the product")
    for mine, wanted in zip((gate, up), before, strict=False):
        expect_equal(mine, wanted, "gate or up")


def check_rotary(kernel: RotaryKernel, device: str, dtype: torch.dtype, heads: tuple[int, ...], alike: bool) -> None:
    """A part of a wider tensor; ``alike``: all sequences have the same positions."""
    T, B, K = 11, 3, 8
    precise = torch.promote_types(dtype, torch.float32)
    wide, angle = drawn((T, B, *heads, 2 * K), (T, 1 if alike else B, K // 2))
    cos, sin = (x.to(device, precise) for x in (angle.cos(), angle.sin()))

    def exact(wide: Tensor) -> list[Tensor]:
        x, shape = wide[..., K:], (T, angle.shape[1], *(1 for _ in heads), K // 2)
        pairs = torch.complex(x[..., : K // 2], x[..., K // 2 :])
        turned = pairs * torch.complex(cos.double(), sin.double()).view(shape)
        return [torch.cat([turned.real, turned.imag], dim=-1)]

    compare(lambda wide: [kernel(wide[..., K:], (cos, sin))], exact, [wide], device, dtype)


class OneOfTwo:
    """A rank beside another one whose logits are known: what both exchange, in one process."""

    size = 2
    group = None

    def __init__(self, rank: int, other_nV: Tensor, labels_n: Tensor) -> None:
        self.rank = rank
        self._other_nV = other_nV.double()
        columns = other_nV.shape[1]
        own_n = labels_n - (1 - rank) * columns
        self._here_n = (own_n >= 0) & (own_n < columns)
        self._label_n = self._other_nV.gather(1, own_n.clamp(0, columns - 1)[:, None])[:, 0]
        self._largest_n = self._other_nV.amax(-1)

    def largest_of_ranks(self, x: Tensor) -> Tensor:
        """Of both."""
        self._largest_n = torch.maximum(x.double(), self._largest_n)
        return self._largest_n.to(x.dtype)

    def sum_of_ranks(self, x: Tensor) -> Tensor:
        """Of both."""
        exponentials_n = (self._other_nV - self._largest_n[:, None]).exp().sum(-1)
        label_n = (self._label_n - self._largest_n) * self._here_n
        return x + torch.stack([exponentials_n, label_n]).to(x.dtype)


class Alone:
    """The only rank."""

    size, rank, group = 1, 0, None

    def largest_of_ranks(self, x: Tensor) -> Tensor:
        """Its own."""
        return x

    def sum_of_ranks(self, x: Tensor) -> Tensor:
        """Its own."""
        return x


def check_cross_entropy(
    kernel: CrossEntropyKernel, device: str, dtype: torch.dtype, rank: int | None, scale: float = 1.0
) -> None:
    """Of the first or second rank's half of the columns, or of all; logits of about ``scale``."""
    rows, columns, factor = 13, 58, 0.37
    logits_nV = scale * drawn((rows, columns))[0].to(device, dtype)
    labels_n = torch.randint(columns, (rows,), generator=torch.Generator().manual_seed(5)).to(device)
    exact_nV = logits_nV.double().requires_grad_()
    expected_n = -exact_nV.log_softmax(-1).gather(1, labels_n[:, None])[:, 0]
    (gradient_nV,) = torch.autograd.grad(expected_n.sum() * factor, exact_nV)
    halves = slice(0, columns // 2), slice(columns // 2, columns)
    own = slice(0, columns) if rank is None else halves[rank]

    def ranks() -> Alone | OneOfTwo:
        return Alone() if rank is None else OneOfTwo(rank, logits_nV[:, halves[1 - rank]], labels_n)

    own_nV = logits_nV[:, own].clone()
    losses_n = kernel.losses(own_nV, labels_n, ranks(), None)
    expect_equal(own_nV, logits_nV[:, own], "logits, although no gradient is asked for")
    expect_equal(kernel.losses(own_nV, labels_n, ranks(), factor), losses_n, "loss, because a gradient is asked for")
    expect_close(losses_n, expected_n, 1e-5, "loss")
    expect_close(own_nV, gradient_nV[:, own], max(1e-5, TOLERANCE[dtype]), "gradient of the logits")
