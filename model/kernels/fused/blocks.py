"""What the kernels do with a tile, whichever of its sides they walk along.

In: tensors and tiles of them. Out: tiles. Always: products and exponentials in fp32 or better, logarithms and exponents
of base 2. Suffixes beside model/config.py's: i the queries of a tile, j its keys; K and E are padded with zeros to
powers of two, as Triton wants its tiles. A letter alone names the queries' or keys' own indices; query i of U is that
of token T - U + i, and sees the keys up to it.

Loops keep what is constant in them to themselves (disable_licm): hoisted out, the addresses that the matrix units read
from cost 60 registers and more, and spilled (LOG.md).
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
UNSEEN = tl.constexpr(-1e37)
"""a maximum that no logit is below: unlike -inf, it can be subtracted from itself"""


@triton.jit
def load_rows(tensor, b, h, stream, first):
    """The tile [rows, width] of a head's stream that begins at token ``first``, with zeros beyond the tensor's
    tokens and width. ``tensor`` describes a tensor [B, heads, streams, tokens, width] and tiles of it,
    [1, 1, 1, rows, width]."""
    return tl.reshape(tensor.load([b, h, stream, first, 0]), tensor.block_shape[3:])


@triton.jit
def store_rows(tensor, b, h, stream, first, tile):
    """The part of a tile that lies within the tensor's tokens and width, in the tensor's type."""
    tensor.store([b, h, stream, first, 0], tl.reshape(tile.to(tensor.dtype), tensor.block_shape))


@triton.jit
def add_rows(tensor, b, h, stream, first, tile):
    """Adds to what other programs add to, in any order; interpreted programs come one after the other."""
    tile = tl.reshape(tile, tensor.block_shape)
    if INTERPRETED:
        tensor.store([b, h, stream, first, 0], tensor.load([b, h, stream, first, 0]) + tile)
    else:
        tensor.atomic_add([b, h, stream, first, 0], tile)


@triton.jit
def key_spans(starts, first_i, b, U, T, B, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Which key blocks the tile of queries from ``first_i`` on visits: [first, end), of which every query sees all of
    [plain, plain_end)."""
    last_i = tl.minimum(first_i + QUERIES, U) - 1
    end = (T - U + last_i) // KEYS + 1
    plain_end = (T - U + first_i + 1) // KEYS
    first, plain = 0, 0
    if starts is not None:
        first = tl.load(starts + first_i.to(tl.int64) * B + b) // KEYS
        last_start = tl.load(starts + last_i.to(tl.int64) * B + b)
        plain = tl.minimum(tl.cdiv(last_start, KEYS), plain_end)
    return first, plain, plain_end, end


@triton.jit
def query_spans(ends, first_j, b, U, T, B, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """Which query blocks the tile of keys from ``first_j`` on visits: [first, end), of which every query in
    [plain, plain_end) sees all keys. Keys of a document before the queries' have none."""
    offset = T - U
    first = tl.maximum(first_j - offset, 0) // QUERIES
    end = tl.cdiv(U, QUERIES)
    plain_end = end
    if ends is not None:
        last_end = tl.load(ends + (tl.minimum(first_j + KEYS, T) - 1).to(tl.int64) * B + b)
        end = tl.cdiv(tl.maximum(last_end - offset, 0), QUERIES)
        first_end = tl.load(ends + first_j.to(tl.int64) * B + b)
        plain_end = tl.where(first_end < T, tl.maximum(first_end - offset, 0) // QUERIES, end)
    plain = tl.minimum(tl.cdiv(tl.maximum(first_j + KEYS - 1 - offset, 0), QUERIES), end)
    return first, plain, tl.maximum(plain_end, plain), end


@triton.jit
def blocks_in(spans, MASKED: tl.constexpr):
    """How many blocks have, or have not, something to hide."""
    first, plain, plain_end, end = spans
    return (plain - first) + (end - plain_end) if MASKED else plain_end - plain


@triton.jit
def block_at(spans, n, MASKED: tl.constexpr):
    """The n-th of these blocks."""
    first, plain, plain_end, _ = spans
    return tl.where(n < plain - first, first + n, plain_end + n - (plain - first)) if MASKED else plain + n


@triton.jit
def seen_by(i, j, start_i):
    """[i, j]: key j lies not behind the token ``i`` of a query, and in its document."""
    seen = j[None, :] <= i[:, None]
    if start_i is not None:
        seen &= j[None, :] >= start_i[:, None]
    return seen


@triton.jit
def number_at(b, h, stream, H, U):
    """Where the numbers of a head's stream begin in [B, H, 2, U]."""
    return ((b.to(tl.int64) * H + h) * 2 + stream) * U


@triton.jit
def weights_of(weight, b, h, i, U):
    """lambda of the queries ``i``, 0 beyond the last one."""
    start = weight.pointer + (b.to(tl.int64) * weight.sequence + h.to(tl.int64) * weight.head)
    return tl.load(start + i.to(tl.int64) * weight.token, mask=i < U, other=0.0)


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
