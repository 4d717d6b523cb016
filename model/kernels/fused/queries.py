"""The kernel of the queries' gradients alone, for runs that must repeat to the bit.

In: the inputs and the output's gradient, what the forward pass kept. Out: dQ. Always: one program owns the queries of a
tile and one head and adds over the keys in their order. Both maps and dO V^T are computed here once more: with the
other gradients' kernel 14 K products for each query and key instead of 10 K.
"""

import triton
import triton.language as tl

from model.kernels.fused.blocks import (
    add_product,
    block_at,
    blocks_in,
    key_spans,
    load_rows,
    number_at,
    probabilities,
    product,
    seen_by,
    store_rows,
    weights_of,
)


@triton.jit(do_not_specialize=["U", "T", "B", "H", "heads_per_group"])
def queries_kernel(
    q, k, v, weight, starts, d_out, log_sums, deltas, dq, U, T, B, H, heads_per_group, scale, exponent,
    K: tl.constexpr, E: tl.constexpr, ONE_KEY: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Grid: (query tiles, B H). The keys that a tile visits are those of the forward pass."""
    first_i = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    b, h = tl.program_id(1) // H, tl.program_id(1) % H
    i = first_i + tl.arange(0, QUERIES)
    token_i = T - U + i
    q1_iK = load_rows(q, b, h, 0, first_i)
    q2_iK = load_rows(q, b, h, 1, first_i)
    d_out_iE = load_rows(d_out, b, h, 0, first_i)
    g = h // heads_per_group
    numbers1, numbers2 = number_at(b, h, 0, H, U), number_at(b, h, 1, H, U)
    numbers = (
        weights_of(weight, b, h, i, U),
        tl.load(log_sums + numbers1 + i, mask=i < U, other=float("inf")),
        tl.load(log_sums + numbers2 + i, mask=i < U, other=float("inf")),
        tl.load(deltas + numbers1 + i, mask=i < U, other=0.0),
        tl.load(deltas + numbers2 + i, mask=i < U, other=0.0),
    )

    gradients = (
        tl.zeros((QUERIES, K), tl.float32),
        tl.zeros((QUERIES, K), tl.float32),
    )
    spans = key_spans(starts, first_i, b, U, T, B, QUERIES, KEYS)
    start_i = None
    if starts is not None:
        start_i = tl.load(starts + i.to(tl.int64) * B + b, mask=i < U, other=0)
    gradients = over_keys(
        gradients, q1_iK, q2_iK, d_out_iE, numbers, k, v, b, g, token_i, start_i, exponent, spans, ONE_KEY, KEYS, True
    )
    gradients = over_keys(
        gradients, q1_iK, q2_iK, d_out_iE, numbers, k, v, b, g, token_i, start_i, exponent, spans, ONE_KEY, KEYS, False
    )
    dq1_iK, dq2_iK = gradients
    store_rows(dq, b, h, 0, first_i, dq1_iK * scale)
    store_rows(dq, b, h, 1, first_i, dq2_iK * scale)


@triton.jit
def over_keys(
    gradients, q1_iK, q2_iK, d_out_iE, numbers, k, v, b, g, token_i, start_i, exponent, spans,
    ONE_KEY: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """``gradients`` of both streams' queries with those of key blocks [first_j, end_j) added; without MASKED every
    query sees all of them."""
    dq1_iK, dq2_iK = gradients
    weight_i, log_sum1_i, log_sum2_i, delta1_i, delta2_i = numbers
    for n in tl.range(0, blocks_in(spans, MASKED), disable_licm=True):
        block_j = block_at(spans, n, MASKED) * KEYS
        visible = None
        if MASKED:
            visible = seen_by(token_i, block_j + tl.arange(0, KEYS), start_i)
        k1_jK = load_rows(k, b, g, 0, block_j)
        k2_jK = k1_jK
        if not ONE_KEY:
            k2_jK = load_rows(k, b, g, 1, block_j)
        v_jE = load_rows(v, b, g, 0, block_j)
        p1_ij = probabilities(product(q1_iK, tl.trans(k1_jK)), exponent, log_sum1_i[:, None], visible, MASKED)
        p2_ij = probabilities(product(q2_iK, tl.trans(k2_jK)), exponent, log_sum2_i[:, None], visible, MASKED)
        dp_ij = product(d_out_iE, tl.trans(v_jE))
        ds1_ij = p1_ij * (dp_ij - delta1_i[:, None])
        dq1_iK = add_product(dq1_iK, ds1_ij, k1_jK)
        ds2_ij = p2_ij * (weight_i[:, None] * (delta2_i[:, None] - dp_ij))
        dq2_iK = add_product(dq2_iK, ds2_ij, k2_jK)
    return dq1_iK, dq2_iK
