"""The counts of operations and bytes against loops that walk every tile and add up what they touch."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from scripts.kernels.cost import Blocks, Cost
from scripts.kernels.counted import FusedBlocks, filled_widths, forms_of, table, verdict
from scripts.kernels.forms import (
    Counted,
    Shape,
    deltas,
    flash,
    forward_parts,
    fused,
    grouped,
    keys_parts,
    one_call,
    queries_pass,
    repeatable,
    stacked,
    standard,
    two_calls,
)

TALL, WIDE = Blocks(16, 8), Blocks(8, 24)
SHAPES = [
    Shape(T=53, H=6, G=3, K=24, E=48),  # no multiple of a block; widths that are filled up
    Shape(T=7, H=2, G=2, K=32, E=64),  # less than a block
    Shape(T=61, H=6, G=2, K=32, E=32, key_streams=1),
]


@dataclass
class Walk:
    """Adds up what a loop does."""

    products: int = 0
    exponentials: int = 0
    moved: Counter[str] = field(default_factory=Counter)

    def move(self, name: str, rows: Sequence[int], width: int, size: int = 2) -> None:
        self.moved[name] += len(rows) * width * size

    def dot(self, rows: int, columns: int, inner: int) -> None:
        self.products += rows * columns * inner

    def __eq__(self, cost: object) -> bool:
        assert isinstance(cost, Cost)
        return (self.products, self.exponentials, self.moved) == (cost.multiply_adds, cost.exponentials, cost.bytes)


def cut(T: int, size: int) -> list[range]:
    return [range(start, min(T, start + size)) for start in range(0, T, size)]


def sees(queries: range, keys: range) -> bool:
    return queries[-1] >= keys[0]


def filled(width: int) -> int:
    """As the fused kernels multiply it."""
    return max(64, width)


def flash_filled(width: int) -> int:
    return {24: 32, 48: 64}[width]


def walk_forward(shape: Shape, blocks: Blocks) -> Walk:
    walk, M, N = Walk(), blocks.queries, blocks.keys
    for _head in range(shape.H):
        for queries in cut(shape.T, M):
            walk.move("q", queries, 2 * shape.K)
            walk.move("lambda", queries, 1, 4)
            for keys in cut(shape.T, N):
                if sees(queries, keys):
                    walk.move("k", keys, shape.key_streams * shape.K)
                    walk.move("v", keys, shape.E)
                    for _stream in range(2):
                        walk.dot(M, N, filled(shape.K))
                        walk.exponentials += M * N
                        walk.dot(M, filled(shape.E), N)
            walk.move("out", queries, shape.E)
            walk.move("out2", queries, shape.E)
            walk.move("lse", queries, 2, 4)
    return walk


def walk_deltas(shape: Shape) -> Walk:
    walk = Walk()
    for _head in range(shape.H):
        for token in range(shape.T):
            for name in ("out", "out2", "dout"):
                walk.move(name, [token], shape.E)
            walk.move("lambda", [token], 1, 4)
            walk.move("lambda", [token], 1, 4)  # its gradient
            walk.move("delta", [token], 2, 4)
    return walk


def walk_stream(shape: Shape, blocks: Blocks, is_first: bool) -> Walk:
    """One stream's launch; the first stream's comes second, and subtracts what the other one wrote."""
    walk, M, N = Walk(), blocks.queries, blocks.keys
    for _head in range(shape.H):
        for queries in cut(shape.T, M):
            walk.move("q", queries, shape.K)
            for keys in cut(shape.T, N):
                if sees(queries, keys):
                    walk.move("k", keys, shape.K)
                    walk.move("v", keys, shape.E)
                    walk.dot(M, N, filled(shape.K))
                    walk.exponentials += M * N
                    walk.dot(M, filled(shape.E), N)
            walk.move("out2", queries, shape.E)
            walk.move("lse", queries, 1, 4)
            if is_first:
                walk.move("out", queries, shape.E)
                walk.move("lambda", queries, 1, 4)
    return walk


def walk_keys(shape: Shape, blocks: Blocks, adds_dq: bool, makes: str = "kv") -> Walk:
    """``makes``: whose gradients; dQ is made beside dK."""
    walk, M, N = Walk(), blocks.queries, blocks.keys
    for _group in range(shape.G):
        for keys in cut(shape.T, N):
            walk.move("k", keys, shape.key_streams * shape.K)
            if "k" in makes:
                walk.move("v", keys, shape.E)
                walk.move("dk", keys, shape.key_streams * shape.K)
            if "v" in makes:
                walk.move("dv", keys, shape.E)
            for _head in range(shape.H // shape.G):
                for queries in cut(shape.T, M):
                    if sees(queries, keys):
                        walk_tile(walk, shape, queries, M, N, adds_dq, makes)
    return walk


def walk_tile(walk: Walk, shape: Shape, queries: range, M: int, N: int, adds_dq: bool, makes: str) -> None:
    walk.move("q", queries, 2 * shape.K)
    walk.move("lambda", queries, 1, 4)
    walk.move("dout", queries, shape.E)
    walk.move("lse", queries, 2, 4)
    for _stream in range(2):
        walk.dot(M, N, filled(shape.K))
        walk.exponentials += M * N
    if "v" in makes:
        walk.dot(N, filled(shape.E), M)
    if "k" in makes:
        walk.move("delta", queries, 2, 4)
        walk.dot(M, N, filled(shape.E))  # dO V^T
        for _stream in range(2):
            walk.dot(N, filled(shape.K), M)
            if adds_dq:
                walk.dot(M, filled(shape.K), N)
                walk.move("dq", queries, shape.K, 4)  # read
                walk.move("dq", queries, shape.K, 4)  # written


def walk_queries(shape: Shape, blocks: Blocks) -> Walk:
    walk, M, N = Walk(), blocks.queries, blocks.keys
    for _head in range(shape.H):
        for queries in cut(shape.T, M):
            walk.move("q", queries, 2 * shape.K)
            walk.move("dout", queries, shape.E)
            for name, numbers in {"lambda": 1, "lse": 2, "delta": 2}.items():
                walk.move(name, queries, numbers, 4)
            for keys in cut(shape.T, N):
                if sees(queries, keys):
                    walk.move("k", keys, shape.key_streams * shape.K)
                    walk.move("v", keys, shape.E)
                    walk.dot(M, N, filled(shape.E))
                    for _stream in range(2):
                        walk.dot(M, N, filled(shape.K))
                        walk.exponentials += M * N
                        walk.dot(M, filled(shape.K), N)
            walk.move("dq", queries, 2 * shape.K)
    return walk


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("blocks", [TALL, WIDE], ids=str)
def test_the_fused_kernels_cost_what_their_loops_touch(shape: Shape, blocks: Blocks) -> None:
    assert [walk_forward(shape, blocks)] == forward_parts(shape, blocks)
    assert walk_deltas(shape) == deltas(shape)
    for adds_dq in (True, False):
        assert [walk_keys(shape, blocks, adds_dq)] == keys_parts(shape, blocks, adds_dq)
    assert walk_queries(shape, blocks) == queries_pass(shape, blocks)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("blocks", [TALL, WIDE], ids=str)
def test_parts_walk_apart_and_leave_out_what_they_do_not_make(shape: Shape, blocks: Blocks) -> None:
    apart = dataclasses.replace(blocks, apart=True)
    assert [walk_stream(shape, blocks, is_first) for is_first in (False, True)] == forward_parts(shape, apart)
    for adds_dq in (True, False):
        parts = [walk_keys(shape, blocks, adds_dq, makes) for makes in ("k", "v")]
        assert parts == keys_parts(shape, apart, adds_dq)


def test_in_one_pass_dq_is_cleared_and_rounded_besides() -> None:
    shape = SHAPES[0]
    around = Walk()
    for size in (4, 4, 2):  # written, read, written
        around.move("dq", range(shape.T * shape.H), 2 * shape.K, size)
    rest = fused(shape, TALL, WIDE).backward.all_bytes - sum(around.moved.values())
    (keys,) = keys_parts(shape, WIDE, adds_dq=True)
    assert rest == deltas(shape).all_bytes + keys.all_bytes


def walk_flash(T: int, N: int, G: int, K: int, E: int, blocks: Blocks) -> tuple[Walk, Walk]:
    ahead, back, rows, columns = Walk(), Walk(), blocks.queries, blocks.keys
    for _head in range(N):
        for queries in cut(T, rows):
            ahead.move("q", queries, K)
            ahead.move("out", queries, E)
            ahead.move("lse", queries, 1, 4)
            for name in ("out", "dout"):
                back.move(name, queries, E)
            back.move("delta", queries, 1, 4)
            for size in (4, 4, 2):
                back.move("dq", queries, K, size)
            for keys in cut(T, columns):
                if sees(queries, keys):
                    ahead.move("k", keys, K)
                    ahead.move("v", keys, E)
                    ahead.dot(rows, columns, flash_filled(K))
                    ahead.exponentials += rows * columns
                    ahead.dot(rows, flash_filled(E), columns)
        for keys in cut(T, columns):
            for name, width in {"k": K, "dk": K, "v": E, "dv": E}.items():
                back.move(name, keys, width)
            for queries in cut(T, rows):
                if sees(queries, keys):
                    back.move("q", queries, K)
                    back.move("dout", queries, E)
                    back.move("lse", queries, 1, 4)
                    back.move("delta", queries, 1, 4)
                    back.move("dq", queries, 2 * K, 4)
                    back.exponentials += rows * columns
                    for inner in (K, E):  # scores, dO V^T
                        back.dot(rows, columns, flash_filled(inner))
                    for width in (E, K):  # dV, dK
                        back.dot(columns, flash_filled(width), rows)
                    back.dot(rows, flash_filled(K), columns)
    if N > G:
        for heads in (N, G):
            back.move("dk", range(T * heads), K)
            back.move("dv", range(T * heads), E)
    return ahead, back


@pytest.mark.parametrize(("N", "G"), [(6, 3), (2, 2)])
@pytest.mark.parametrize("blocks", [TALL, WIDE], ids=str)
def test_a_call_of_flash_attention_costs_what_its_loops_touch(N: int, G: int, blocks: Blocks) -> None:
    counted = flash(53, N, G, 24, 48, 2, blocks, blocks)
    ahead, back = walk_flash(53, N, G, 24, 48, blocks)
    assert ahead == counted.forward
    assert back == counted.backward


SHAPE = Shape(T=1024, H=6, G=3, K=64, E=128)
EQUAL = Blocks(64, 64)
PAIRS = 6 * 64 * 64 * (16 * 17 // 2)
"""of all heads, where each of 16 blocks of queries sees itself and those before it"""


@pytest.mark.parametrize(
    ("counted", "forward", "backward", "exponentials"),
    [
        (fused(SHAPE, EQUAL, EQUAL), 6, 10, 2),
        (two_calls(SHAPE, EQUAL, EQUAL, padded=False), 6, 14, 2),
        (two_calls(SHAPE, EQUAL, EQUAL, padded=True), 8, 20, 2),
        (grouped(SHAPE, EQUAL, EQUAL), 8, 20, 2),
        (stacked(SHAPE, EQUAL, EQUAL), 8, 20, 4),
        (standard(SHAPE, EQUAL, EQUAL), 4, 10, 2),
    ],
    ids=["fused", "two calls", "padded", "grouped", "stacked", "standard"],
)
def test_products_of_width_k_for_each_pair(counted: Counted, forward: int, backward: int, exponentials: int) -> None:
    assert counted.forward.multiply_adds == forward * SHAPE.K * PAIRS
    assert counted.backward.multiply_adds == backward * SHAPE.K * PAIRS
    assert counted.forward.exponentials == counted.backward.exponentials == exponentials * PAIRS


def test_the_repeatable_form_computes_scores_twice() -> None:
    cost = repeatable(SHAPE, EQUAL, EQUAL, EQUAL).backward
    assert cost.multiply_adds == 14 * SHAPE.K * PAIRS
    assert cost.exponentials == 4 * PAIRS


def test_one_key_for_both_queries() -> None:
    """8 K against 10 K backward; the difference is one dO V^T and one dV."""
    shape = Shape(T=1024, H=6, G=3, K=64, E=64, key_streams=1)
    public, own = one_call(shape, EQUAL, EQUAL), fused(shape, EQUAL, EQUAL)
    assert public.backward.multiply_adds == 10 * shape.K * PAIRS
    assert own.backward.multiply_adds == 8 * shape.K * PAIRS
    assert public.forward.multiply_adds == own.forward.multiply_adds == 4 * shape.K * PAIRS


@pytest.mark.parametrize("K", [64, 128])
def test_the_target_is_met_with_equal_tiles(K: int) -> None:
    """At most 0.75 of the two calls' arithmetic backward, and half of their value traffic."""
    shape = Shape(T=4096, H=1, G=1, K=K, E=2 * K)
    forms = forms_of(shape, FusedBlocks(EQUAL, EQUAL, EQUAL), EQUAL)
    own, calls = forms["fused"], forms["two calls (K, 2K)"]
    assert own.backward.multiply_adds / calls.backward.multiply_adds == 10 / 14 <= 0.75
    assert own.forward.value_bytes == calls.forward.value_bytes / 2
    assert own.backward.value_bytes <= calls.backward.value_bytes / 2
    both = own.forward.multiply_adds + own.backward.multiply_adds
    same_size = forms["standard, same size"]
    assert both / (same_size.forward.multiply_adds + same_size.backward.multiply_adds) == 16 / 14


def test_the_table_has_a_line_for_each_form_and_direction() -> None:
    blocks = FusedBlocks(TALL, WIDE, TALL)
    lines = table(SHAPE, blocks)
    names = [line[2:26].strip() for line in lines if line.startswith("  ")]
    assert names[1:] == 3 * list(forms_of(SHAPE, blocks))
    assert "beside two calls (K, 2K): 0.714 of the arithmetic backward" in verdict(SHAPE, blocks, EQUAL)


def test_widths_without_a_kernel_are_multiplied_as_the_next_ones() -> None:
    """8 K + 4 E against 28 K; tiles have 64 and 128, E 256, too; flash-attn has 96 and 192 besides."""
    rows = {int(row[0]): row for row in (line.replace(",", "").split() for line in filled_widths()[2:])}
    cases = [(32, 64, 64, 64), (88, 128, 256, 192), (96, 128, 256, 192), (104, 128, 256, 256), (128, 128, 256, 256)]
    for K, ours, values, theirs in cases:
        assert rows[K][2:4] + rows[K][5:7] == [str(width) for width in (ours, values, theirs, theirs)]
        products = 8 * ours + 4 * values, 14 * theirs
        ratios = products[0] / (16 * K), products[1] / (28 * K), products[0] / products[1]
        assert [rows[K][4], *rows[K][7:]] == [f"{ratio:.2f}" for ratio in ratios]
