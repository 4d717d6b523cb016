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
    block_at,
    blocks_in,
    key_spans,
    load_rows,
    number_at,
    product,
    seen_by,
    store_rows,
    weights_of,
)


@triton.jit(do_not_specialize=["U", "T", "B", "H", "heads_per_group"])
def forward_kernel(
    q, k, v, weight, starts, out, second, log_sums, U, T, B, H, heads_per_group, exponent,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Grid: (query tiles, B H). ``exponent``: what turns q . k into an exponent of 2. ONE_KEY: streams share a key.

    FIRST, SECOND: the streams that this launch walks; the first one's needs what the second one's has written.
    """
    first_i = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # those with the most keys start first
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    token_i = T - U + i
    q1_iK = load_rows(q, b, h, 0, first_i)
    q2_iK = load_rows(q, b, h, 1, first_i)
    g = h // heads_per_group

    zero_iE = tl.zeros((QUERIES, E), tl.float32)
    unseen_i = tl.full((QUERIES,), UNSEEN, tl.float32)
    zero_i = tl.zeros((QUERIES,), tl.float32)
    sums = (zero_iE, unseen_i, zero_i, zero_iE, unseen_i, zero_i)

    spans = key_spans(starts, first_i, b, U, T, B, QUERIES, KEYS)
    start_i = None
    if starts is not None:
        start_i = tl.load(starts + i.to(tl.int64) * B + b, mask=i < U, other=0)
    sums = over_keys(
        sums, q1_iK, q2_iK, k, v, b, g, token_i, start_i, exponent, spans, ONE_KEY, KEYS, FIRST, SECOND, True
    )
    sums = over_keys(
        sums, q1_iK, q2_iK, k, v, b, g, token_i, start_i, exponent, spans, ONE_KEY, KEYS, FIRST, SECOND, False
    )
    sum1_iE, max1_i, total1_i, sum2_iE, max2_i, total2_i = sums
    if SECOND:
        out2_iE = sum2_iE / total2_i[:, None]
        store_rows(second, b, h, 0, first_i, out2_iE)
        tl.store(log_sums + number_at(b, h, 1, H, U) + i, max2_i + tl.log2(total2_i), mask=i < U)
    else:
        out2_iE = load_rows(second, b, h, 0, first_i).to(tl.float32)
    if FIRST:
        out_iE = sum1_iE / total1_i[:, None] - weights_of(weight, b, h, i, U)[:, None] * out2_iE
        store_rows(out, b, h, 0, first_i, out_iE)
        tl.store(log_sums + number_at(b, h, 0, H, U) + i, max1_i + tl.log2(total1_i), mask=i < U)


@triton.jit
def over_keys(
    sums, q1_iK, q2_iK, k, v, b, g, token_i, start_i, exponent, spans,
    ONE_KEY: tl.constexpr, KEYS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``sums``, each stream's weighted values, highest exponent and sum of weights, with key blocks [first_j, end_j)
    added; without MASKED every query sees all of them."""
    sum1_iE, max1_i, total1_i, sum2_iE, max2_i, total2_i = sums
    for n in tl.range(0, blocks_in(spans, MASKED), disable_licm=True):
        block_j = block_at(spans, n, MASKED) * KEYS
        visible = None
        if MASKED:
            visible = seen_by(token_i, block_j + tl.arange(0, KEYS), start_i)
        k_jK = load_rows(k, b, g, 0 if FIRST or ONE_KEY else 1, block_j)
        v_jE = load_rows(v, b, g, 0, block_j)
        if FIRST:
            s1_ij = product(q1_iK, tl.trans(k_jK))
            if SECOND and not ONE_KEY:
                k_jK = load_rows(k, b, g, 1, block_j)
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
