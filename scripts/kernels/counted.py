"""The counts of all forms of differential attention side by side, as tables of text.

In: a shape and the tiles of the fused kernels. Out: lines. Always: every figure is also given as a part of the
first form's: the two calls with unequal widths (K, 2K), the least that public code needs; the target's two figures are
said in words below a table.
"""

from dataclasses import dataclass

from model.kernels.fused.tiles import tile_of
from scripts.kernels.cost import Blocks, Cost
from scripts.kernels.forms import (
    Counted,
    Shape,
    flash_width,
    fused,
    grouped,
    one_call,
    repeatable,
    stacked,
    standard,
    two_calls,
)

COUNTED_TOKENS = 4096
WIDTHS = (32, 64, 88, 96, 104, 128)
"""of a key, in the papers' models and the shipped configs"""
EQUAL = Blocks(64, 64)
SHAPES = tuple(Shape(COUNTED_TOKENS, 1, 1, K, E, E // K) for K, E in ((64, 128), (128, 256), (128, 128)))
FLASH_FORWARD = {
    32: Blocks(128, 128),
    64: Blocks(128, 128),
    96: Blocks(128, 64),
    128: Blocks(128, 64),
    192: Blocks(128, 64),
    256: Blocks(64, 64),
}
FLASH_BACKWARD = {
    32: Blocks(128, 128),
    64: Blocks(128, 128),
    96: Blocks(64, 128),
    128: Blocks(64, 128),
    192: Blocks(64, 64),
    256: Blocks(64, 64),
}
"""of flash-attn 2 on an H100, by width: csrc/flash_attn/src/flash_{fwd,bwd}_launch_template.h of its repository"""


@dataclass(frozen=True)
class FusedBlocks:
    """Tiles of the fused kernels for one shape."""

    forward: Blocks
    keys: Blocks
    """of the kernel that walks the queries of a block of keys"""
    queries: Blocks
    """of the kernel for dQ alone"""


def fused_blocks(shape: Shape) -> FusedBlocks:
    """The tiles that the operator takes."""
    tiles = (tile_of(kernel, shape.K, shape.E, shape.half) for kernel in ("forward", "keys", "queries"))
    return FusedBlocks(*(Blocks(tile.queries, tile.keys, tile.apart) for tile in tiles))


def report() -> list[str]:
    """All tables: for each shape with equal tiles, then with each form's own."""
    lines = []
    for shape in SHAPES:
        own = fused_blocks(shape)
        for common, words in ((EQUAL, f"tiles of {EQUAL.queries} x {EQUAL.keys}"), (None, "each form's own tiles")):
            lines.append(f"K {shape.K}, E {shape.E}, T {shape.T}, {words}")
            lines += [*table(shape, own, common), verdict(shape, own, common), ""]
    return [*lines, *filled_widths()]


def forms_of(shape: Shape, own: FusedBlocks, common: Blocks | None = None) -> dict[str, Counted]:
    """Every form's cost, what it is compared with first.

    Args:
        own: tiles of the fused kernels.
        common: tiles that all forms take in place of their own.
    """
    if common is not None:
        own = FusedBlocks(common, common, common)
    narrow = _flash_blocks(shape.K, common)
    counted = {
        "fused": fused(shape, own.forward, own.keys),
        "fused, repeatable": repeatable(shape, own.forward, own.keys, own.queries),
        "standard, same size": standard(shape, *narrow),
    }
    if shape.key_streams == 1:
        return {"one call": one_call(shape, *narrow), **counted}
    wide = _flash_blocks(shape.E, common)
    return {
        "two calls (K, 2K)": two_calls(shape, *wide, padded=False),
        "two calls, padded": two_calls(shape, *wide, padded=True),
        "grouped": grouped(shape, *wide),
        "stacked": stacked(shape, *narrow),
        **counted,
    }


def table(shape: Shape, own: FusedBlocks, common: Blocks | None = None) -> list[str]:
    """A line for each form and direction."""
    forms = forms_of(shape, own, common)
    first = next(iter(forms.values()))
    lines = [f"{'':<26}{'10^9 multiply-adds':>22}{'10^6 exponentials':>20}{'MB':>20}{'MB of values':>20}"]
    for direction in ("forward", "backward", "both"):
        lines.append(direction)
        lines += [
            f"  {name:<24}{_cells(_directed(counted, direction), _directed(first, direction))}"
            for name, counted in forms.items()
        ]
    return lines


def verdict(shape: Shape, own: FusedBlocks, common: Blocks | None = None) -> str:
    """The target: 0.75 of the two calls' arithmetic backward, half of their value traffic."""
    forms = forms_of(shape, own, common)
    name, first = next(iter(forms.items()))
    one_pass = forms["fused"]
    arithmetic = one_pass.backward.multiply_adds / first.backward.multiply_adds
    ahead, back = (
        _directed(one_pass, direction).value_bytes / _directed(first, direction).value_bytes
        for direction in ("forward", "backward")
    )
    return (
        f"fused beside {name}: {arithmetic:.3f} of the arithmetic backward; "
        f"value traffic {ahead:.3f} forward, {back:.3f} backward"
    )


def filled_widths() -> list[str]:
    """What it costs that widths are filled up: multiply-adds of both directions over those of the widths themselves."""
    lines = [
        "multiply-adds of both directions over those of the true widths, tiles of 64 x 64",
        f"{'K':>5}{'E':>5}{'fused, as':>14}{'over':>7}{'grouped, as':>15}{'over':>7}{'fused / grouped':>18}",
    ]
    own = FusedBlocks(EQUAL, EQUAL, EQUAL)
    exact = Shape(COUNTED_TOKENS, 1, 1, 64, 128)  # neither form fills it up
    for K in WIDTHS:
        shape = Shape(COUNTED_TOKENS, 1, 1, K, 2 * K)
        here, there = (
            [_directed(forms_of(one, own, EQUAL)[form], "both").multiply_adds for form in ("fused", "grouped")]
            for one in (shape, exact)
        )
        fused_over, grouped_over = (many / (few * K / exact.K) for many, few in zip(here, there, strict=True))
        ours, theirs = "{}, {}".format(*shape.computed), "{0}, {0}".format(flash_width(2 * K))
        lines.append(
            f"{K:>5}{2 * K:>5}{ours:>14}{fused_over:>7.2f}{theirs:>15}{grouped_over:>7.2f}{here[0] / here[1]:>18.2f}"
        )
    return lines


def _flash_blocks(width: int, common: Blocks | None) -> tuple[Blocks, Blocks]:
    if common is not None:
        return common, common
    return FLASH_FORWARD[flash_width(width)], FLASH_BACKWARD[flash_width(width)]


def _directed(counted: Counted, direction: str) -> Cost:
    if direction == "both":
        return counted.forward + counted.backward
    return counted.forward if direction == "forward" else counted.backward


def _cells(cost: Cost, first: Cost) -> str:
    pairs = (
        (cost.multiply_adds / 1e9, cost.multiply_adds / first.multiply_adds, 22),
        (cost.exponentials / 1e6, cost.exponentials / first.exponentials, 20),
        (cost.all_bytes / 1e6, cost.all_bytes / first.all_bytes, 20),
        (cost.value_bytes / 1e6, cost.value_bytes / first.value_bytes, 20),
    )
    return "".join(f"{f'{amount:,.1f} ({part:.2f})':>{width}}" for amount, part, width in pairs)
