"""Norm, gate, rotation and cross-entropy on the CPU: every implementation that runs here computes its equation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels.rowwise import compiled, cross_entropy, norm, pieces, rotary, swiglu
from model.kernels.rowwise.compiled import Compiled
from scripts.speed.comparing import drawn
from scripts.speed.rowwise_checks import (
    EPS,
    check_cross_entropy,
    check_norm,
    check_rotary,
    check_swiglu,
    runnable,
)
from tests.live_bytes import LiveBytes

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def every(operation: str) -> pytest.MarkDecorator:
    """Implementations that run here, in all types; what a compiler makes is tried once, as that takes seconds."""
    cases = [
        pytest.param(kernel, dtype, id=f"{kernel.name} {dtype}")
        for dtype in DTYPES
        for kernel in runnable(operation, "cpu", dtype)
        if kernel.name != "compiled" or dtype == torch.bfloat16
    ]
    return pytest.mark.parametrize(("kernel", "dtype"), cases)


@every("norm")
def test_a_norm_divides_by_the_root_mean_square(kernel: Any, dtype: torch.dtype) -> None:
    check_norm(kernel, "cpu", dtype, shape=(5, 3, 7))


@every("swiglu")
def test_the_gate_is_swish(kernel: Any, dtype: torch.dtype) -> None:
    check_swiglu(kernel, "cpu", dtype, rows=5, width=13)


@every("rotary")
def test_pairs_are_turned_as_complex_numbers(kernel: Any, dtype: torch.dtype) -> None:
    check_rotary(kernel, "cpu", dtype, heads=(5, 2), alike=False)
    if kernel.name != "compiled":
        check_rotary(kernel, "cpu", dtype, heads=(3,), alike=True)


@pytest.mark.parametrize("rank", [None, 0, 1], ids=["whole", "first half", "second half"])
@every("cross_entropy")
def test_losses_and_gradients_are_those_of_the_whole_vocabulary(
    kernel: Any, dtype: torch.dtype, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CPU_PIECE_ELEMENTS", 5 * 29)
    if kernel.name != "compiled" or rank == 1:
        check_cross_entropy(kernel, "cpu", dtype, rank)


def test_what_large_logits_do_to_exponentials_does_not_reach_the_loss() -> None:
    check_cross_entropy(cross_entropy.WRITTEN, "cpu", torch.float32, rank=1, scale=1e4)


def test_pieces_make_the_whole_and_add_up_what_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 tokens of 2 x 7 elements, 4 at a time."""
    monkeypatch.setattr(pieces, "CPU_PIECE_ELEMENTS", 4 * 14 + 13)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    x, other = drawn((13, 2, 7), (13, 1, 3))
    seen = []

    def function(x: Tensor, other: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
        seen.append((len(x), len(other)))
        return factor * x, other.flatten(1), x.sum((0, 1))

    found = pieces.by_pieces(function, tokenwise=2, summed=1)(x, other, 3.0)
    assert seen == [(4, 4), (4, 4), (4, 4), (1, 1)]
    for mine, wanted in zip(found, function(x, other, 3.0), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_written_computes_its_equation_piece_by_piece(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "CPU_PIECE_ELEMENTS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    check_norm(norm.WRITTEN, "cpu", dtype, shape=(5, 3, 7))
    check_swiglu(swiglu.WRITTEN, "cpu", dtype, rows=5, width=13)
    check_rotary(rotary.WRITTEN, "cpu", dtype, heads=(5, 2), alike=False)
    check_rotary(rotary.WRITTEN, "cpu", dtype, heads=(3,), alike=True)


def kept(function: Callable[..., Any], *inputs: Any) -> int:
    """Bytes that live on after ``function``, its results aside."""
    with LiveBytes([x for x in inputs if isinstance(x, Tensor)]) as live:
        results = function(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    return live.now - sum(result.nbytes for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_number_a_row_is_kept_of_a_norm_and_nothing_of_the_others(dtype: torch.dtype) -> None:
    x, residual, weight = (x.to(dtype).requires_grad_() for x in drawn((5, 3, 8), (5, 3, 8), (8,)))
    cos = sin = torch.ones(5, 1, 4)
    assert kept(norm.WRITTEN.norm, x, weight, EPS) == 15 * 4
    assert kept(norm.WRITTEN.add_norm, x, residual, weight, EPS) == 15 * 4
    assert kept(swiglu.WRITTEN, x, residual) == 0
    assert kept(lambda x, *angles: rotary.WRITTEN(x, angles), x, cos, sin) == 0


def test_what_cannot_be_compiled_runs_as_it_is_written_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: Tensor) -> Tensor:
        raise RuntimeError("g++ is not there\nand more")

    monkeypatch.setattr(compiled.torch, "compile", lambda function: no_compiler)

    def doubled(x: Tensor) -> Tensor:
        return 2 * x

    run = Compiled(doubled)
    assert [float(run(torch.tensor(x))) for x in (1.0, 3.0)] == [2.0, 6.0]
    assert capsys.readouterr().err == "doubled: not compiled, runs as it is written: g++ is not there\n"


def test_what_is_wrong_with_the_arguments_is_not_taken_for_the_compilers_fault() -> None:
    run = Compiled(torch.linalg.cholesky)
    with pytest.raises(RuntimeError, match="batches of square matrices"):
        run(torch.ones(2, 3))
    assert float(run(torch.eye(1))) == 1
