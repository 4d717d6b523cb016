"""The kernels of the backward pass that walk along the queries, and what has to be there before they start.

In: the inputs and the output's gradient, what the forward pass kept. Out: the gradients. Always: one program owns the
keys of a tile and one key/value head, for all query heads that read it; it visits no query block behind the end of its
last key's document. Both maps and dO V^T are computed once; where the queries' gradients are made here as well,
programs add to them in the order in which they come, which no two runs have in common.
"""

import triton
import triton.language as tl

from model.kernels.fused.blocks import (
    add_product,
    add_rows,
    block_at,
    blocks_in,
    load_rows,
    logit_gradients,
    number_at,
    probabilities,
    product,
    query_spans,
    store_rows,
    weights_of,
)


@triton.jit
def deltas_kernel(
    d_out, out, second, weight, deltas, d_weight, T, B, H, QUERIES: tl.constexpr
):  # fmt: skip
    """Grid: (query tiles, B H). The sum over keys of p times dO V^T is dO . (A V); A1 V is out + lambda A2 V."""
    first_i = tl.program_id(0) * QUERIES
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    d_out_iE = load_rows(d_out, b, h, 0, first_i).to(tl.float32)
    out_iE = load_rows(out, b, h, 0, first_i).to(tl.float32)
    second_iE = load_rows(second, b, h, 0, first_i).to(tl.float32)
    delta2_i = tl.sum(d_out_iE * second_iE, 1)
    delta1_i = tl.sum(d_out_iE * out_iE, 1) + weights_of(weight, b, h, i, T) * delta2_i
    tl.store(deltas + number_at(b, h, 0, H, T) + i, delta1_i, mask=i < T)
    tl.store(deltas + number_at(b, h, 1, H, T) + i, delta2_i, mask=i < T)
    tl.store(d_weight + (i.to(tl.int64) * B + b) * H + h, -delta2_i, mask=i < T)


@triton.jit
def keys_kernel(
    q, k, v, weight, ends, d_out, log_sums, deltas, dq, dk, dv, T, B, H, heads_per_group, scale, exponent,
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

    spans = query_spans(ends, first_j, b, T, B, QUERIES, KEYS)
    end_j = None
    if ends is not None:
        end_j = tl.load(ends + j.to(tl.int64) * B + b, mask=j < T, other=0)

    gradients = (
        tl.zeros((K, KEYS), tl.float32),
        tl.zeros((K, KEYS), tl.float32),
        tl.zeros((E, KEYS), tl.float32),
    )
    first_h = g * heads_per_group
    gradients = over_queries(
        gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, first_h, heads_per_group, T, H,
        scale, exponent, spans, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, True,
    )  # fmt: skip
    gradients = over_queries(
        gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, first_h, heads_per_group, T, H,
        scale, exponent, spans, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, False,
    )  # fmt: skip
    dk1_Kj, dk2_Kj, dv_Ej = gradients
    if OF_KEYS:
        store_rows(dk, b, g, 0, first_j, tl.trans(dk1_Kj * scale))
        if not ONE_KEY:
            store_rows(dk, b, g, 1, first_j, tl.trans(dk2_Kj * scale))
    if OF_VALUES:
        store_rows(dv, b, g, 0, first_j, tl.trans(dv_Ej))


@triton.jit
def over_queries(
    gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, first_h, heads, T, H,
    scale, exponent, spans,
    ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``gradients`` of the tile's keys and values, each transposed, with those of the blocks of ``heads`` heads' queries
    added, as far as they are MASKED or not. Rows beyond T weigh nothing: their log-sum-exp is infinite."""
    dk1_Kj, dk2_Kj, dv_Ej = gradients
    blocks = blocks_in(spans, MASKED)
    for n in tl.range(0, heads * blocks):  # one loop: what is constant in an inner one would be kept throughout the outer
        h = first_h + n // blocks
        block_i = block_at(spans, n % blocks, MASKED) * QUERIES
        numbers1, numbers2 = number_at(b, h, 0, H, T), number_at(b, h, 1, H, T)
        i = block_i + tl.arange(0, QUERIES)
        within_i = i < T
        visible = None
        if MASKED:
            visible = j[None, :] <= i[:, None]
            if end_j is not None:
                visible &= i[:, None] < end_j[None, :]
        q1_iK = load_rows(q, b, h, 0, block_i)
        log_sum1_i = tl.load(log_sums + numbers1 + i, mask=within_i, other=float("inf"))
        p1_ij = probabilities(product(q1_iK, tl.trans(k1_jK)), exponent, log_sum1_i[:, None], visible, MASKED)
        q2_iK = load_rows(q, b, h, 1, block_i)
        log_sum2_i = tl.load(log_sums + numbers2 + i, mask=within_i, other=float("inf"))
        p2_ij = probabilities(product(q2_iK, tl.trans(k2_jK)), exponent, log_sum2_i[:, None], visible, MASKED)

        weight_i = weights_of(weight, b, h, i, T)
        d_out_iE = load_rows(d_out, b, h, 0, block_i)
        if OF_VALUES:
            map_ij = (p1_ij - weight_i[:, None] * p2_ij).to(d_out_iE.dtype)
            dv_Ej = add_product(dv_Ej, tl.trans(d_out_iE), map_ij)
        if OF_KEYS:
            dp_ij = product(d_out_iE, tl.trans(v_jE))
            delta1_i = tl.load(deltas + numbers1 + i, mask=within_i, other=0.0)
            delta2_i = tl.load(deltas + numbers2 + i, mask=within_i, other=0.0)
            ds1_ij, ds2_ij = logit_gradients(
                p1_ij, p2_ij, weight_i[:, None], dp_ij, delta1_i[:, None], delta2_i[:, None]
            )
            ds1_ij = ds1_ij.to(q1_iK.dtype)
            ds2_ij = ds2_ij.to(q2_iK.dtype)
            dk1_Kj = add_product(dk1_Kj, tl.trans(q1_iK), ds1_ij)
            if ONE_KEY:
                dk1_Kj = add_product(dk1_Kj, tl.trans(q2_iK), ds2_ij)
            else:
                dk2_Kj = add_product(dk2_Kj, tl.trans(q2_iK), ds2_ij)
            if dq is not None:
                dq1_iK = product(ds1_ij, k1_jK) * scale
                add_rows(dq, b, h, 0, block_i, dq1_iK)
                dq2_iK = product(ds2_ij, k2_jK) * scale
                add_rows(dq, b, h, 1, block_i, dq2_iK)
    return dk1_Kj, dk2_Kj, dv_Ej
