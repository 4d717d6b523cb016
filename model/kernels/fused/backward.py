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
    load_rows,
    logit_gradients,
    number_at,
    probabilities,
    product,
    rows_of,
    store_rows,
    weights_of,
)


@triton.jit
def deltas_kernel(
    d_out, out, second, weight, deltas, d_weight, T, B, H, E: tl.constexpr, QUERIES: tl.constexpr
):  # fmt: skip
    """Grid: (query tiles, B H). The sum over keys of p times dO V^T is dO . (A V); A1 V is out + lambda A2 V."""
    first_i = tl.program_id(0) * QUERIES
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    d_out_iE = load_rows(rows_of(d_out, b, h, 0), d_out.token, first_i, T, QUERIES, E, True).to(tl.float32)
    out_iE = load_rows(rows_of(out, b, h, 0), out.token, first_i, T, QUERIES, E, True).to(tl.float32)
    second_iE = load_rows(rows_of(second, b, h, 0), second.token, first_i, T, QUERIES, E, True).to(tl.float32)
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
    k1_jK = load_rows(rows_of(k, b, g, 0), k.token, first_j, T, KEYS, K, True)
    k2_jK = k1_jK
    if not ONE_KEY:
        k2_jK = load_rows(rows_of(k, b, g, 1), k.token, first_j, T, KEYS, K, True)
    v_jE = load_rows(rows_of(v, b, g, 0), v.token, first_j, T, KEYS, E, True)

    first_i = first_j // QUERIES * QUERIES
    plain_i = tl.cdiv(first_j + KEYS - 1, QUERIES) * QUERIES  # queries from here on see every key of the tile
    end_i = T
    plain_end_i = T
    end_j = None
    if ends is not None:
        end_j = tl.load(ends + j.to(tl.int64) * B + b, mask=j < T, other=0)
        first_end = tl.load(ends + first_j.to(tl.int64) * B + b)
        end_i = tl.load(ends + (tl.minimum(first_j + KEYS, T) - 1).to(tl.int64) * B + b)
        plain_end_i = tl.where(first_end < T, first_end // QUERIES * QUERIES, T)
    plain_i = tl.minimum(plain_i, end_i)

    gradients = (
        tl.zeros((KEYS, triton.next_power_of_2(K)), tl.float32),
        tl.zeros((KEYS, triton.next_power_of_2(K)), tl.float32),
        tl.zeros((KEYS, triton.next_power_of_2(E)), tl.float32),
    )
    for member in tl.range(0, heads_per_group):
        h = g * heads_per_group + member
        gradients = over_queries(
            gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, h, T, H, scale,
            exponent, first_i, plain_i, K, E, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, True,
        )  # fmt: skip
        gradients = over_queries(
            gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, h, T, H, scale,
            exponent, plain_i, plain_end_i, K, E, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, False,
        )  # fmt: skip
        if ends is not None:
            gradients = over_queries(
                gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, h, T, H, scale,
                exponent, tl.maximum(plain_i, plain_end_i), end_i, K, E, ONE_KEY, QUERIES, OF_KEYS, OF_VALUES, True,
            )  # fmt: skip
    dk1_jK, dk2_jK, dv_jE = gradients
    if OF_KEYS:
        store_rows(rows_of(dk, b, g, 0), dk.token, first_j, T, dk1_jK * scale, KEYS, K)
        if not ONE_KEY:
            store_rows(rows_of(dk, b, g, 1), dk.token, first_j, T, dk2_jK * scale, KEYS, K)
    if OF_VALUES:
        store_rows(rows_of(dv, b, g, 0), dv.token, first_j, T, dv_jE, KEYS, E)


@triton.jit
def over_queries(
    gradients, q, weight, d_out, log_sums, deltas, dq, k1_jK, k2_jK, v_jE, j, end_j, b, h, T, H, scale, exponent,
    first_i, end_i,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, QUERIES: tl.constexpr,
    OF_KEYS: tl.constexpr, OF_VALUES: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``gradients`` of the tile's keys and values with those of head h's query blocks [first_i, end_i) added; without
    MASKED each of these queries sees all keys. Rows beyond T weigh nothing: their log-sum-exp is infinite."""
    dk1_jK, dk2_jK, dv_jE = gradients
    queries1, queries2 = rows_of(q, b, h, 0), rows_of(q, b, h, 1)
    rows = rows_of(d_out, b, h, 0)
    numbers1, numbers2 = number_at(b, h, 0, H, T), number_at(b, h, 1, H, T)
    for block_i in tl.range(first_i, end_i, QUERIES):
        i = block_i + tl.arange(0, QUERIES)
        within_i = i < T
        visible = None
        if MASKED:
            visible = j[None, :] <= i[:, None]
            if end_j is not None:
                visible &= i[:, None] < end_j[None, :]
        q1_iK = load_rows(queries1, q.token, block_i, T, QUERIES, K, True)
        log_sum1_i = tl.load(log_sums + numbers1 + i, mask=within_i, other=float("inf"))
        p1_ij = probabilities(product(q1_iK, tl.trans(k1_jK)), exponent, log_sum1_i[:, None], visible, MASKED)
        q2_iK = load_rows(queries2, q.token, block_i, T, QUERIES, K, True)
        log_sum2_i = tl.load(log_sums + numbers2 + i, mask=within_i, other=float("inf"))
        p2_ij = probabilities(product(q2_iK, tl.trans(k2_jK)), exponent, log_sum2_i[:, None], visible, MASKED)

        weight_i = weights_of(weight, b, h, i, T)
        d_out_iE = load_rows(rows, d_out.token, block_i, T, QUERIES, E, True)
        if OF_VALUES:
            map_ij = (p1_ij - weight_i[:, None] * p2_ij).to(d_out_iE.dtype)
            dv_jE = add_product(dv_jE, tl.trans(map_ij), d_out_iE)
        if OF_KEYS:
            dp_ij = product(d_out_iE, tl.trans(v_jE))
            delta1_i = tl.load(deltas + numbers1 + i, mask=within_i, other=0.0)
            delta2_i = tl.load(deltas + numbers2 + i, mask=within_i, other=0.0)
            ds1_ij, ds2_ij = logit_gradients(
                p1_ij, p2_ij, weight_i[:, None], dp_ij, delta1_i[:, None], delta2_i[:, None]
            )
            ds1_ij = ds1_ij.to(q1_iK.dtype)
            ds2_ij = ds2_ij.to(q2_iK.dtype)
            dk1_jK = add_product(dk1_jK, tl.trans(ds1_ij), q1_iK)
            if ONE_KEY:
                dk1_jK = add_product(dk1_jK, tl.trans(ds2_ij), q2_iK)
            else:
                dk2_jK = add_product(dk2_jK, tl.trans(ds2_ij), q2_iK)
            if dq is not None:
                dq1_iK = product(ds1_ij, k1_jK) * scale
                add_rows(rows_of(dq, b, h, 0), dq.token, block_i, T, dq1_iK, QUERIES, K)
                dq2_iK = product(ds2_ij, k2_jK) * scale
                add_rows(rows_of(dq, b, h, 1), dq.token, block_i, T, dq2_iK, QUERIES, K)
    return dk1_jK, dk2_jK, dv_jE
