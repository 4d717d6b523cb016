"""What the kernels do with a tile, whichever of its sides they walk along.

In: pointers and tiles. Out: tiles. Always: products and exponentials in fp32 or better, logarithms and exponents of
base 2. Suffixes beside model/config.py's: i the queries of a tile, j its keys; K and E are padded to powers of two, as
Triton wants its tiles, with zeros. A letter alone names the queries' or keys' own indices.
"""

import triton
import triton.language as tl

from model.kernels.fused.views import UNIT as UNIT_ELEMENTS

UNIT = tl.constexpr(UNIT_ELEMENTS)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
UNSEEN = tl.constexpr(-1e37)
"""a maximum that no logit is below: unlike -inf, it can be subtracted from itself"""


@triton.jit
def rows_of(view, b, h, stream):
    """Pointer to the first token of a head's stream."""
    return view.pointer + (b.to(tl.int64) * view.sequence + h.to(tl.int64) * view.head + stream * view.stream) * UNIT


@triton.jit
def load_rows(rows, stride, first, T, ROWS: tl.constexpr, WIDTH: tl.constexpr, BOUNDED: tl.constexpr):
    """[ROWS, WIDTH padded] from token ``first`` on; BOUNDED: it may reach beyond T, where zeros are read."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, triton.next_power_of_2(WIDTH))[None, :]
    pointers = rows + tl.cast(first, tl.int64) * (stride * UNIT) + (row * (stride * UNIT) + column)
    if triton.next_power_of_2(WIDTH) == WIDTH:
        tile = tl.load(pointers, mask=first + row < T, other=0.0) if BOUNDED else tl.load(pointers)
    else:
        within = (first + row < T) & (column < WIDTH) if BOUNDED else column < WIDTH
        tile = tl.load(pointers, mask=within, other=0.0)
    return tile


@triton.jit
def store_rows(rows, stride, first, T, tile, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The part of a tile that lies within T and WIDTH, in the type of the tensor."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, triton.next_power_of_2(WIDTH))[None, :]
    pointers = rows + tl.cast(first, tl.int64) * (stride * UNIT) + (row * (stride * UNIT) + column)
    tl.store(pointers, tile.to(rows.dtype.element_ty), mask=(first + row < T) & (column < WIDTH))


@triton.jit
def add_rows(rows, stride, first, T, tile, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Adds to what other programs add to, in any order."""
    row = tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, triton.next_power_of_2(WIDTH))[None, :]
    pointers = rows + tl.cast(first, tl.int64) * (stride * UNIT) + (row * (stride * UNIT) + column)
    tl.atomic_add(pointers, tile, mask=(first + row < T) & (column < WIDTH), sem="relaxed")


@triton.jit
def key_range(starts, first_i, b, T, B, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Of the queries from ``first_i`` on: the key block that the first document begins in; from where to where every
    query sees every key, in whole blocks; and the end of the last query's keys."""
    end_j = tl.minimum(first_i + QUERIES, T)
    plain_end_j = (first_i + 1) // KEYS * KEYS
    first_j, plain_j = 0, 0
    if starts is not None:
        first_j = tl.load(starts + first_i.to(tl.int64) * B + b) // KEYS * KEYS
        last_start = tl.load(starts + (end_j - 1).to(tl.int64) * B + b)
        plain_j = tl.minimum(tl.cdiv(last_start, KEYS) * KEYS, plain_end_j)
    return first_j, plain_j, plain_end_j, end_j


@triton.jit
def seen_by(i, j, start_i):
    """[i, j]: key j lies not behind query i, and in its document."""
    seen = j[None, :] <= i[:, None]
    if start_i is not None:
        seen &= j[None, :] >= start_i[:, None]
    return seen


@triton.jit
def number_at(b, h, stream, H, T):
    """Where the numbers of a head's stream begin in [B, H, 2, T]."""
    return ((b.to(tl.int64) * H + h) * 2 + stream) * T


@triton.jit
def weights_of(view, b, h, i, T):
    """lambda of the tokens ``i``, 0 beyond T."""
    start = view.pointer + (b.to(tl.int64) * view.sequence + h.to(tl.int64) * view.head)
    return tl.load(start + i.to(tl.int64) * view.token, mask=i < T, other=0.0)


@triton.jit
def product(left, right):
    """left right, in fp32; the interpreter's numpy knows no bfloat16."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def add_product(total, left, right):
    """total + left right, in fp32, with ``left`` rounded to the type of ``right``, as the matrix units want it."""
    left = left.to(right.dtype)
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def probabilities(logits, exponent, log_sum, visible, MASKED: tl.constexpr):
    """2^(logits exponent - log_sum), and 0 where not ``visible``; ``log_sum`` broadcasts over keys."""
    p = tl.exp2(logits * exponent - log_sum)
    if MASKED:
        p = tl.where(visible, p, 0.0)
    return p


@triton.jit
def logit_gradients(p1, p2, weight, dp, delta1, delta2):
    """Of both streams' logits. dp is dO V^T, the delta of a stream the sum over keys of its p times dp."""
    return p1 * (dp - delta1), p2 * (weight * (delta2 - dp))
