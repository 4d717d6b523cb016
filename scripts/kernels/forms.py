"""Differential attention in the forms that code computes it in, as passes that ``cost`` counts.

In: a shape, and the tiles of each form. Out: the cost of forward and backward. Always: causal, one sequence, half
precision; each form with the least that it can move: copies that it must make are counted, those that a careful
programmer avoids are not.

Per pair of a query and a key, and per differential head, in multiply-adds (S1, S2 are the scores, O the output):

    fused, forward     S1, S2: 2 K;  P1 V, P2 V: 2 E                                             6 K   (E = 2K)
    fused, backward    S1, S2 again: 2 K;  dO V^T once: E;  dV = (P1 - lambda P2)^T dO: E;
                       dQ1, dQ2: 2 K;  dK1, dK2: 2 K                                            10 K
    repeatable         dQ in a kernel of its own: S1, S2 and dO V^T once more: 2 K + E          14 K
    two calls          each S, dO V^T, dV, dQ, dK: 3 K + 2 E                                    14 K
      padded           the same with K filled up to E, since kernels want equal widths: 5 E     20 K   (forward 8 K)
    grouped            queries [q1, 0], [0, q2] over keys [k1, k2]: as padded                   20 K   (forward 8 K)
    stacked            4 heads of K: 4 (5 K)                                                    20 K   (forward 8 K)
    standard           the 2 heads of K that a standard model of the same size has: 2 (5 K)     10 K   (forward 4 K)

So forward and backward together need at least 16 K against the standard's 14 K: 1.14 times.

diff_v2 has one key for both queries and values of width K: 4 K forward, and backward 8 K where the call with all
queries as heads needs 10 K.

Kernels compute with widths filled up to ones they are built for: a power of two here, flash-attn's own there.
Products are counted with the filled widths, bytes with the true ones.
"""

from dataclasses import dataclass

from model.kernels.fused.tiles import padded
from scripts.kernels.cost import ATOMIC, FP32, NOTHING, Blocks, Cost, Pass, elementwise

FLASH_WIDTHS = (32, 64, 96, 128, 192, 256)
"""Dao-AILab/flash-attention, csrc/flash_attn/src"""


@dataclass(frozen=True)
class Shape:
    """One sequence of differential heads."""

    T: int
    H: int
    """differential heads"""
    G: int
    """key/value heads"""
    K: int
    E: int
    """width of a value"""
    key_streams: int = 2
    """2, or 1 where both queries read one key"""
    half: int = 2
    """bytes of an element of inputs and outputs"""

    @property
    def computed(self) -> tuple[int, int]:
        """K and E as the fused kernels multiply them."""
        return padded(self.K), padded(self.E)


@dataclass(frozen=True)
class Counted:
    """A form's two directions."""

    forward: Cost
    backward: Cost


def flash_width(width: int) -> int:
    """The width of flash-attn's kernel for heads of ``width``."""
    return min(built for built in FLASH_WIDTHS if built >= width)


def forward_parts(shape: Shape, blocks: Blocks) -> list[Cost]:
    """Of each launch. Both maps over one pass of keys and values; kept for backward: O2 and the log-sum-exps.

    Apart: the second stream, then the first one, which reads O2.
    """
    K, E = shape.computed
    width = shape.E * shape.half
    if blocks.apart:
        held = {"q": shape.K * shape.half, "out2": width, "lse": FP32}
        streams, streamed = 1, {"k": shape.K * shape.half, "v": width}
        launches = [held, held | {"lambda": FP32, "out": width}]
    else:
        streams, streamed = 2, _keys_and_values(shape)
        launches = [{**_queries(shape), "out": width, "out2": width, "lse": 2 * FP32}]
    return [
        Pass("queries", shape.H, shape.H, held, streamed, streams * (K + E), streams).cost(shape.T, blocks)
        for held in launches
    ]


def deltas(shape: Shape) -> Cost:
    """dO . O1 and dO . O2 of each query, and with them the gradient of lambda."""
    rows = dict.fromkeys(("out", "out2", "dout"), shape.E * shape.half)
    return elementwise(shape.T * shape.H, {**rows, "lambda": 2 * FP32, "delta": 2 * FP32})


def keys_parts(shape: Shape, blocks: Blocks, adds_dq: bool) -> list[Cost]:
    """Of each launch. dK and dV: a program owns a block of keys, and walks the query blocks of all heads that read it.

    Apart: dK, then dV, for which the scores are computed once more.

    Args:
        adds_dq: dQ is made beside dK, and added to atomically in fp32.
    """
    K, E = shape.computed
    k, v = _keys_and_values(shape).items()
    scores, seen = 2 * K, _queries(shape) | {"dout": shape.E * shape.half, "lse": 2 * FP32}
    of_keys = E + 2 * K + (2 * K if adds_dq else 0)
    deltas_and_dq = {"delta": 2 * FP32} | ({"dq": 2 * shape.K * ATOMIC} if adds_dq else {})
    gradient_k, gradient_v = ("dk", k[1]), ("dv", v[1])
    if blocks.apart:
        launches = [
            (dict([k, v, gradient_k]), seen | deltas_and_dq, scores + of_keys),
            (dict([k, gradient_v]), seen, scores + E),
        ]
    else:
        launches = [(dict([k, v, gradient_k, gradient_v]), seen | deltas_and_dq, scores + of_keys + E)]
    return [
        Pass("keys", shape.G, shape.H, held, streamed, multiply_adds, 2).cost(shape.T, blocks)
        for held, streamed, multiply_adds in launches
    ]


def queries_pass(shape: Shape, blocks: Blocks) -> Cost:
    """dQ alone: a program owns a block of queries, and walks their keys once more."""
    K, E = shape.computed
    return Pass(
        outer="queries",
        programs=shape.H,
        walks=shape.H,
        held={**_queries(shape), **_of_gradient(shape), "dq": 2 * shape.K * shape.half},
        streamed=_keys_and_values(shape),
        multiply_adds=2 * K + E + 2 * K,
        exponentials=2,
    ).cost(shape.T, blocks)


def fused(shape: Shape, forward: Blocks, keys: Blocks) -> Counted:
    """The fused operator, backward in one pass."""
    cleared_and_rounded = elementwise(shape.T * shape.H, {"dq": 2 * shape.K * (FP32 + FP32 + shape.half)})
    backward = sum(keys_parts(shape, keys, adds_dq=True), deltas(shape) + cleared_and_rounded)
    return Counted(sum(forward_parts(shape, forward), NOTHING), backward)


def repeatable(shape: Shape, forward: Blocks, keys: Blocks, queries: Blocks) -> Counted:
    """The fused operator where nothing may be added in an order that changes: dQ has a kernel of its own."""
    backward = sum(keys_parts(shape, keys, adds_dq=False), deltas(shape) + queries_pass(shape, queries))
    return Counted(sum(forward_parts(shape, forward), NOTHING), backward)


def flash(T: int, N: int, G: int, K: int, E: int, half: int, forward: Blocks, backward: Blocks) -> Counted:
    """A call of flash-attn: N query heads of K over G key/value heads with values of E.

    Backward, a program belongs to a query head, so that grouped keys' gradients are written per query head and summed.
    """
    k, e = flash_width(K), flash_width(E)
    ahead = Pass(
        outer="queries",
        programs=N,
        walks=N,
        held={"q": K * half, "out": E * half, "lse": FP32},
        streamed={"k": K * half, "v": E * half},
        multiply_adds=k + e,
        exponentials=1,
    )
    back = Pass(
        outer="keys",
        programs=N,
        walks=N,
        held={"k": K * half, "v": E * half, "dk": K * half, "dv": E * half},
        streamed={"q": K * half, "dout": E * half, "lse": FP32, "delta": FP32, "dq": K * ATOMIC},
        multiply_adds=3 * k + 2 * e,
        exponentials=1,
    )
    around = {"out": E * half, "dout": E * half, "delta": FP32, "dq": K * (FP32 + FP32 + half)}
    summed = elementwise(T * (N + G), {"dk": K * half, "dv": E * half}) if N > G else NOTHING
    return Counted(ahead.cost(T, forward), elementwise(T * N, around) + back.cost(T, backward) + summed)


def two_calls(shape: Shape, forward: Blocks, backward: Blocks, padded: bool) -> Counted:
    """A call per stream. ``padded``: with queries and keys filled up to the values' width, and copied for it."""
    width = shape.E if padded else shape.K
    call = flash(shape.T, shape.H, shape.G, width, shape.E, shape.half, forward, backward)
    filled = (shape.K + width) * shape.half
    copies = elementwise(2 * shape.T * shape.H, {"q": filled}) + elementwise(2 * shape.T * shape.G, {"k": filled})
    values = elementwise(3 * shape.T * shape.G, {"dv": shape.E * shape.half})  # the calls' dv, added up
    return Counted(
        call.forward + call.forward + (copies if padded else NOTHING) + _difference(shape),
        call.backward + call.backward + values + _difference_backward(shape),
    )


def grouped(shape: Shape, forward: Blocks, backward: Blocks) -> Counted:
    """One call: queries [q1, 0] and [0, q2] over one key [k1, k2] and one value, all E = 2K wide."""
    call = flash(shape.T, 2 * shape.H, shape.G, shape.E, shape.E, shape.half, forward, backward)
    filled = elementwise(2 * shape.T * shape.H, {"q": (shape.K + shape.E) * shape.half})
    return Counted(call.forward + filled + _difference(shape), call.backward + _difference_backward(shape))


def stacked(shape: Shape, forward: Blocks, backward: Blocks) -> Counted:
    """One call of 4H heads of K: each stream with each half of the values, all copied."""
    call = flash(shape.T, 4 * shape.H, 4 * shape.G, shape.K, shape.K, shape.half, forward, backward)
    moved = (2 + 4) * shape.K * shape.half
    copies = elementwise(shape.T * shape.H, {"q": moved}) + elementwise(shape.T * shape.G, {"k": moved, "v": moved})
    sums = elementwise(shape.T * shape.H, {"dq": moved}) + elementwise(shape.T * shape.G, {"dk": moved, "dv": moved})
    return Counted(call.forward + copies + _difference(shape), call.backward + sums + _difference_backward(shape))


def one_call(shape: Shape, forward: Blocks, backward: Blocks) -> Counted:
    """diff_v2 as public code has it: both queries as heads over the one key, then the difference."""
    call = flash(shape.T, 2 * shape.H, shape.G, shape.K, shape.E, shape.half, forward, backward)
    return Counted(call.forward + _difference(shape), call.backward + _difference_backward(shape))


def standard(shape: Shape, forward: Blocks, backward: Blocks) -> Counted:
    """Standard attention of a model of the same size: values and heads of K, as many as give the same width."""
    heads = shape.E // shape.K
    return flash(shape.T, heads * shape.H, heads * shape.G, shape.K, shape.K, shape.half, forward, backward)


def _queries(shape: Shape) -> dict[str, int]:
    return {"q": 2 * shape.K * shape.half, "lambda": FP32}


def _keys_and_values(shape: Shape) -> dict[str, int]:
    return {"k": shape.key_streams * shape.K * shape.half, "v": shape.E * shape.half}


def _of_gradient(shape: Shape) -> dict[str, int]:
    return {"dout": shape.E * shape.half, "lse": 2 * FP32, "delta": 2 * FP32}


def _difference(shape: Shape) -> Cost:
    """O1 - lambda O2 from two outputs, in one kernel."""
    return elementwise(shape.T * shape.H, {"out": 3 * shape.E * shape.half, "lambda": FP32})


def _difference_backward(shape: Shape) -> Cost:
    """-lambda dO, and lambda's gradient from dO . O2; dO itself is the first stream's."""
    width = shape.E * shape.half
    return elementwise(shape.T * shape.H, {"dout": 2 * width, "out": width, "lambda": 2 * FP32})
