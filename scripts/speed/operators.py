"""Operators of one layer, timed forward and backward: implementations beside each other.

In: Sizes. Out: a row for each operator and implementation. Always: inputs are drawn at random, gradients of all of them
are computed; implementations of one operator take turns. One that fails has its error in the row, and the others go on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scripts.speed.rowwise_checks import Alone, runnable
from scripts.speed.sizes import Sizes
from scripts.speed.timing import median_seconds


@dataclass(frozen=True)
class OperatorRow:
    """One implementation of one operator."""

    operator: str
    implementation: str
    forward_seconds: float | None
    seconds: float | None
    """forward and backward"""
    error: str | None = None


Function = Callable[..., Tensor | Sequence[Tensor]]


def rowwise_rows(sizes: Sizes) -> list[OperatorRow]:
    """Norm after a sum, gate, rotation of queries, and cross-entropy of one chunk of logits."""
    T, B, D, F = sizes.length, sizes.sequences, sizes.width, sizes.ffn_width
    K = sizes.head_dims[0]
    device, dtype = torch.device(sizes.device), sizes.dtype
    draw = partial(torch.randn, device=device, dtype=dtype)
    here = {
        operation: runnable(operation, sizes.device, dtype, sizes.left_out)
        for operation in ("norm", "swiglu", "rotary", "cross_entropy")
    }
    norm_inputs = draw(T, B, D), draw(T, B, D), draw(D)
    rows = rows_of(
        f"sum and RMSNorm of {D}",
        {kernel.name: lambda *x, run=kernel.add_norm: run(*x, 1e-5) for kernel in here["norm"]},
        norm_inputs,
        sizes,
    )
    rows += rows_of(
        f"SwiGLU of {F}", {kernel.name: kernel for kernel in here["swiglu"]}, draw(2, T, B, F).unbind(), sizes
    )
    angle = torch.randn(T, 1, K // 2, device=device, dtype=torch.promote_types(dtype, torch.float32))
    angles = angle.cos(), angle.sin()
    rows += rows_of(
        f"rotation of {D // K} streams of {K}",
        {kernel.name: lambda x, run=kernel: run(x, angles) for kernel in here["rotary"]},
        (draw(T, B, D // K, K),),
        sizes,
    )
    return rows + _cross_entropy_rows(here["cross_entropy"], sizes)


def _cross_entropy_rows(kernels: Sequence[Any], sizes: Sizes) -> list[OperatorRow]:
    """Both passes are one: the gradient takes the logits' place."""
    rows, V = min(sizes.length * sizes.sequences, 2**27 // sizes.vocabulary), sizes.vocabulary
    device = torch.device(sizes.device)
    labels_n = torch.randint(V, (rows,), device=device)
    contenders: dict[str, Callable[[], object]] = {}
    for kernel in kernels:
        logits_nV = torch.randn(rows, V, device=device, dtype=sizes.dtype)
        contenders[kernel.name] = partial(kernel.losses, logits_nV, labels_n, Alone(), 1 / rows)
    seconds = _timed(contenders, sizes, device)
    name = f"cross-entropy of {rows} x {V}"
    return [OperatorRow(name, one, None, *_result(seconds[one])) for one in contenders]


def rows_of(
    operator: str, functions: Mapping[str, Function], inputs: Sequence[Tensor], sizes: Sizes
) -> list[OperatorRow]:
    """Rows of one operator; every function takes ``inputs``."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    forward = {name: partial(function, *leaves) for name, function in functions.items()}
    both = {name: partial(_forward_and_backward, run, leaves) for name, run in forward.items()}
    device = torch.device(sizes.device)
    alone, whole = _timed(forward, sizes, device), _timed(both, sizes, device)
    return [OperatorRow(operator, name, _result(alone[name])[0], *_result(whole[name])) for name in functions]


def _forward_and_backward(run: Callable[[], Any], leaves: Sequence[Tensor]) -> None:
    results = run()
    results = [results] if isinstance(results, Tensor) else list(results)
    torch.autograd.grad(results, leaves, [torch.ones_like(result) for result in results])


def _timed(
    contenders: Mapping[str, Callable[[], object]], sizes: Sizes, device: torch.device
) -> dict[str, float | str]:
    """Seconds, or the error, of each; those that fail the first time do not take part."""
    errors: dict[str, float | str] = {}
    for name, run in contenders.items():
        try:
            run()
        except (
            Exception
        ) as error:  # a package's kernel may fail in any way; the others' figures are wanted all the same
            errors[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    sound = {name: run for name, run in contenders.items() if name not in errors}
    return errors | median_seconds(sound, sizes.rounds, device)


def _result(found: float | str) -> tuple[float | None, str | None]:
    """(seconds, error), one of which is None."""
    return (None, found) if isinstance(found, str) else (found, None)
