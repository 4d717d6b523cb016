"""A small Triton kernel for the tests of the kernel report: what is launched here is compiled, and nothing runs."""

import torch
import triton
import triton.language as tl


@triton.jit
def multiply_twice(a, b, c, N, TILE: tl.constexpr):
    rows, columns = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    right = tl.load(b + rows * N + columns)
    once = tl.dot(tl.load(a + rows * N + columns), right)
    twice = tl.dot(once.to(right.dtype), right)
    tl.store(c + rows * N + columns, twice.to(c.dtype.element_ty))


def launch(columns: int, tile: int, warps: int) -> None:
    """(A B) B of one tile in one block, from tensors without memory."""
    a, b, c = (torch.empty(tile, columns, dtype=torch.bfloat16, device="meta") for _ in range(3))
    multiply_twice[(1,)](a, b, c, columns, tile, num_warps=warps)
