"""The kernels of the backward pass that walk along the queries, and what has to be there before they start.

In: the inputs and the output's gradient, what the forward pass kept. Out: the gradients. Always: one program owns the
keys of a tile and one key/value head, for all query heads that read it; it visits no query block behind the end of its
last key's document. Both maps and dO V^T are computed once for all that a launch makes; where the queries' gradients
are made here as well, programs add to them in the order in which they come, which no two runs have in common.
"""

import triton
import triton.language as tl

from model.kernels.fused.blocks import (
    add_product,
    add_rows,
    block_at,
    blocks_in,
    load_rows,
    number_at,
    probabilities,
    product,
    query_spans,
    store_rows,
    weights_of,
)


@triton.jit(do_not_specialize=["U", "B", "H"])
def deltas_kernel(
    d_out, out, second, weight, deltas, d_weight, U, B, H, QUERIES: tl.constexpr
):  # fmt: skip
    """Grid: (query tiles, B H). The sum over keys of p times dO V^T is dO . (A V); A1 V is out + lambda A2 V."""
    first_i = tl.program_id(0) * QUERIES
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    d_out_iE = load_rows(d_out, b, h, 0, first_i).to(tl.float32)
    out_iE = load_rows(out, b, h, 0, first_i).to(tl.float32)
    second_iE = load_rows(second, b, h, 0, first_i).to(tl.float32)
    delta2_i = tl.sum(d_out_iE * second_iE, 1)
    delta1_i = tl.sum(d_out_iE * out_iE, 1) + weights_of(weight, b, h, i, U) * delta2_i
    tl.store(deltas + number_at(b, h, 0, H, U) + i, delta1_i, mask=i < U)
    tl.store(deltas + number_at(b, h, 1, H, U) + i, delta2_i, mask=i < U)
    tl.store(d_weight + (i.to(tl.int64) * B + b) * H + h, -delta2_i, mask=i < U)


@triton.jit(do_not_specialize=["U", "T", "B", "H", "heads_per_group"])
def keys_kernel(
    q, k, v, weight, ends, d_out, log_sums, deltas, dq, dk, dv, U, T, B, H, heads_per_group, scale, exponent,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr,
):  # fmt: skip
    """Grid: (key tiles, B G), the tiles with the most queries first. ``dq``, in fp32, is added to; None: not made.

    OF_KEYS, OF_VALUES: the gradients that this launch makes; the queries' come with the keys'.
    """
    first_j = tl.program_id(0) * KEYS
    groups = H // heads_per_group
    b, g = tl.program_id(1) // groups, tl.program_id(1) % groups
    j = first_j + tl.arange(0, KEYS)
    k1_jK = load_rows(k, b, g, 0, first_j)
    k2_jK = k1_jK
    if not ONE_KEY:
        k2_jK = load_rows(k, b, g, 1, first_j)
    v_jE = load_rows(v, b, g, 0, first_j)

    spans = query_spans(ends, first_j, b, U, T, B, QUERIES, KEYS)
    begin_j = j - (T - U)
    end_j = None
    if ends is not None:
        end_j = tl.load(ends + j.to(tl.int64) * B + b, mask=j < T, other=0) - (T - U)

    gradients = (
        tl.zeros((KEYS, K), tl.float32),
        tl.zeros((KEYS, K), tl.float32),
        tl.zeros((KEYS, E), tl.float32),
    )
    first_h = g * heads_per_group
    gradients = over_queries(
        gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, begin_j, end_j, b, first_h,
        heads_per_group, U, H, scale, exponent, spans, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, MASKED=True,
    )  # fmt: skip
    gradients = over_queries(
        gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, begin_j, end_j, b, first_h,
        heads_per_group, U, H, scale, exponent, spans, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, MASKED=False,
    )  # fmt: skip
    dk1_jK, dk2_jK, dv_jE = gradients
    if OF_KEYS:
        store_rows(dk, b, g, 0, first_j, dk1_jK * scale)
        if not ONE_KEY:
            store_rows(dk, b, g, 1, first_j, dk2_jK * scale)
    if OF_VALUES:
        store_rows(dv, b, g, 0, first_j, dv_jE)


@triton.jit
def over_queries(
    gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, begin_j, end_j, b, first_h, heads, U, H,
    scale, exponent, spans,
    ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``gradients`` of the tile's keys and values with those of the blocks of ``heads`` heads' queries
    added, as far as they are MASKED or not: queries [begin_j, end_j) see key j. Rows beyond U weigh nothing: their
    log-sum-exp is infinite."""
    dk1_jK, dk2_jK, dv_jE = gradients
    blocks = blocks_in(spans, MASKED)
    for n in tl.range(0, heads * blocks, disable_licm=True):  # one loop, so that none lies in another
        h = first_h + n // tl.maximum(blocks, 1)  # also computed, for the loads ahead, where there are none
        block_i = block_at(spans, n % tl.maximum(blocks, 1), MASKED) * QUERIES
        i = block_i + tl.arange(0, QUERIES)
        visible = None
        if MASKED:
            visible = begin_j[:, None] <= i[None, :]
            if end_j is not None:
                visible &= i[None, :] < end_j[:, None]
        weight_i = weights_of(weight, b, h, i, U)
        d_out_iE = load_rows(d_out, b, h, 0, block_i)
        q1_iK, p1_ji = seen_from(q, k1_jK, log_sums, b, h, 0, block_i, visible, H, U, exponent, QUERIES, MASKED)
        if OF_VALUES:
            q2_iK, p2_ji = seen_from(q, k2_jK, log_sums, b, h, 1, block_i, visible, H, U, exponent, QUERIES, MASKED)
            dv_jE = add_product(dv_jE, p1_ji - weight_i[None, :] * p2_ji, d_out_iE)
        if OF_KEYS:
            dp_ji = product(v_jE, tl.trans(d_out_iE))
            delta1_i = tl.load(deltas + number_at(b, h, 0, H, U) + i, mask=i < U, other=0.0)
            ds1_ji = (p1_ji * (dp_ji - delta1_i[None, :])).to(q1_iK.dtype)
            dk1_jK = add_product(dk1_jK, ds1_ji, q1_iK)
            if dq is not None:
                add_rows(dq, b, h, 0, block_i, tl.trans(product(tl.trans(k1_jK), ds1_ji)) * scale)
            if not OF_VALUES:
                q2_iK, p2_ji = seen_from(q, k2_jK, log_sums, b, h, 1, block_i, visible, H, U, exponent, QUERIES, MASKED)
            delta2_i = tl.load(deltas + number_at(b, h, 1, H, U) + i, mask=i < U, other=0.0)
            ds2_ji = (p2_ji * (weight_i[None, :] * (delta2_i[None, :] - dp_ji))).to(q2_iK.dtype)
            if ONE_KEY:
                dk1_jK = add_product(dk1_jK, ds2_ji, q2_iK)
            else:
                dk2_jK = add_product(dk2_jK, ds2_ji, q2_iK)
            if dq is not None:
                add_rows(dq, b, h, 1, block_i, tl.trans(product(tl.trans(k2_jK), ds2_ji)) * scale)
    return dk1_jK, dk2_jK, dv_jE


@triton.jit
def seen_from(
    q, k_jK, log_sums, b, h, stream, block_i, visible, H, U, exponent, QUERIES: tl.constexpr, MASKED: tl.constexpr
):
    """A block of a stream's queries, and what they make of the keys, [j, i]; nothing beyond U."""
    i = block_i + tl.arange(0, QUERIES)
    q_iK = load_rows(q, b, h, stream, block_i)
    log_sum_i = tl.load(log_sums + number_at(b, h, stream, H, U) + i, mask=i < U, other=float("inf"))
    return q_iK, probabilities(product(k_jK, tl.trans(q_iK)), exponent, log_sum_i[None, :], visible, MASKED)
