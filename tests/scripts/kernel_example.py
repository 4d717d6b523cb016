"""A small Triton kernel for the tests of the kernel report: what is launched here is compiled, and nothing runs."""

import torch
import triton
import triton.language as tl


@triton.jit
def multiply(a, b, c, N, TILE: tl.constexpr):
    rows, columns = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    total = tl.dot(tl.load(a + rows * N + columns), tl.load(b + rows * N + columns))
    tl.store(c + rows * N + columns, total.to(c.dtype.element_ty))


def launch(columns: int, tile: int, warps: int) -> None:
    """One block of one tile, from tensors without memory."""
    a, b, c = (torch.empty(tile, columns, dtype=torch.bfloat16, device="meta") for _ in range(3))
    multiply[(1,)](a, b, c, columns, tile, num_warps=warps)
