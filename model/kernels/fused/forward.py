"""The kernel of the forward pass: both maps over one pass of keys and values.

In: queries and keys of both streams, values, lambda, the documents' first tokens. Out: (A1 - lambda A2) V, and what
the backward pass needs: A2 V and both streams' log-sum-exps. Always: one program owns the queries of a tile and one
head; it visits no key block before its first query's document and none behind its last query.
"""

import triton
import triton.language as tl

from model.kernels.fused.blocks import (
    UNSEEN,
    add_product,
    key_range,
    load_rows,
    number_at,
    product,
    rows_of,
    seen_by,
    store_rows,
    weights_of,
)


@triton.jit
def forward_kernel(
    q, k, v, weight, starts, out, second, log_sums, T, B, H, heads_per_group, exponent,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Grid: (query tiles, B H). ``exponent``: what turns q . k into an exponent of 2. ONE_KEY: streams share a key.

    FIRST, SECOND: the streams that this launch walks; the first one's needs what the second one's has written.
    """
    first_i = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # those with the most keys start first
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    q1_iK = load_rows(rows_of(q, b, h, 0), q.token, first_i, T, QUERIES, K, True)
    q2_iK = load_rows(rows_of(q, b, h, 1), q.token, first_i, T, QUERIES, K, True)
    keys1 = rows_of(k, b, h // heads_per_group, 0)
    keys2 = rows_of(k, b, h // heads_per_group, 0 if ONE_KEY else 1)
    values = rows_of(v, b, h // heads_per_group, 0)

    zero_iE = tl.zeros((QUERIES, triton.next_power_of_2(E)), tl.float32)
    unseen_i = tl.full((QUERIES,), UNSEEN, tl.float32)
    zero_i = tl.zeros((QUERIES,), tl.float32)
    sums = (zero_iE, unseen_i, zero_i, zero_iE, unseen_i, zero_i)

    first_j, plain_j, plain_end_j, end_j = key_range(starts, first_i, b, T, B, QUERIES, KEYS)
    start_i = None
    if starts is not None:
        start_i = tl.load(starts + i.to(tl.int64) * B + b, mask=i < T, other=0)
        sums = over_keys(
            sums, q1_iK, q2_iK, keys1, keys2, k.token, values, v.token, i, start_i, T, exponent, first_j, plain_j,
            K, E, ONE_KEY, KEYS, FIRST, SECOND, True,
        )  # fmt: skip
    sums = over_keys(
        sums, q1_iK, q2_iK, keys1, keys2, k.token, values, v.token, i, start_i, T, exponent, plain_j, plain_end_j,
        K, E, ONE_KEY, KEYS, FIRST, SECOND, False,
    )  # fmt: skip
    sums = over_keys(
        sums, q1_iK, q2_iK, keys1, keys2, k.token, values, v.token, i, start_i, T, exponent, plain_end_j, end_j,
        K, E, ONE_KEY, KEYS, FIRST, SECOND, True,
    )  # fmt: skip

    sum1_iE, max1_i, total1_i, sum2_iE, max2_i, total2_i = sums
    if SECOND:
        out2_iE = sum2_iE / total2_i[:, None]
        store_rows(rows_of(second, b, h, 0), second.token, first_i, T, out2_iE, QUERIES, E)
        tl.store(log_sums + number_at(b, h, 1, H, T) + i, max2_i + tl.log2(total2_i), mask=i < T)
    else:
        out2_iE = load_rows(rows_of(second, b, h, 0), second.token, first_i, T, QUERIES, E, True).to(tl.float32)
    if FIRST:
        out_iE = sum1_iE / total1_i[:, None] - weights_of(weight, b, h, i, T)[:, None] * out2_iE
        store_rows(rows_of(out, b, h, 0), out.token, first_i, T, out_iE, QUERIES, E)
        tl.store(log_sums + number_at(b, h, 0, H, T) + i, max1_i + tl.log2(total1_i), mask=i < T)


@triton.jit
def over_keys(
    sums, q1_iK, q2_iK, keys1, keys2, key_stride, values, value_stride, i, start_i, T, exponent, first_j, end_j,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, KEYS: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``sums``, each stream's weighted values, highest exponent and sum of weights, with key blocks [first_j, end_j)
    added; without MASKED every query sees all of them."""
    sum1_iE, max1_i, total1_i, sum2_iE, max2_i, total2_i = sums
    for block_j in tl.range(first_j, end_j, KEYS):
        visible = None
        if MASKED:
            visible = seen_by(i, block_j + tl.arange(0, KEYS), start_i)
        k_jK = load_rows(keys1 if FIRST else keys2, key_stride, block_j, T, KEYS, K, MASKED)
        v_jE = load_rows(values, value_stride, block_j, T, KEYS, E, MASKED)
        if FIRST:
            s1_ij = product(q1_iK, tl.trans(k_jK))
            if SECOND and not ONE_KEY:
                k_jK = load_rows(keys2, key_stride, block_j, T, KEYS, K, MASKED)
            sum1_iE, max1_i, total1_i = added(sum1_iE, max1_i, total1_i, s1_ij, v_jE, visible, exponent, MASKED)
        if SECOND:
            s2_ij = product(q2_iK, tl.trans(k_jK))
            sum2_iE, max2_i, total2_i = added(sum2_iE, max2_i, total2_i, s2_ij, v_jE, visible, exponent, MASKED)
    return sum1_iE, max1_i, total1_i, sum2_iE, max2_i, total2_i


@triton.jit
def added(sum_iE, max_i, total_i, s_ij, v_jE, visible, exponent, MASKED: tl.constexpr):
    """One stream's sums with a block of keys added."""
    if MASKED:
        s_ij = tl.where(visible, s_ij, -float("inf"))
    highest_i = tl.maximum(max_i, tl.max(s_ij, 1) * exponent)
    p_ij = tl.exp2(s_ij * exponent - highest_i[:, None])
    shrink_i = tl.exp2(max_i - highest_i)
    sum_iE = add_product(sum_iE * shrink_i[:, None], p_ij, v_jE)
    return sum_iE, highest_i, total_i * shrink_i + tl.sum(p_ij, 1)
