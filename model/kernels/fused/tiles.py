"""Which tiles each kernel works on, for every width.

In: a kernel's name, widths, bytes of an element. Out: a Tile. Always: chosen by reports of the compiler for sm_90, not
by timings: no registers spilled, Hopper's matrix instructions, at most 227 KB of shared memory; among these the one
that fetches the fewest bytes for each product.
"""

from dataclasses import dataclass

NARROWEST, WIDEST, UNIT = 16, 128, 8
"""a query or key is a multiple of the unit wide, 16 bytes of a half type"""


@dataclass(frozen=True)
class Tile:
    """What one program works on."""

    queries: int
    keys: int
    warps: int
    stages: int
    """blocks of the walked side that are in flight or in use"""
    apart: bool = False
    """a launch for each stream (forward) or for the values' gradient and the others (keys): registers hold no more"""


HALF_TYPES = {
    ("forward", 64, 64): Tile(queries=128, keys=64, warps=8, stages=3),
    ("forward", 64, 128): Tile(queries=128, keys=64, warps=8, stages=2),
    ("forward", 128, 128): Tile(queries=128, keys=32, warps=8, stages=2),
    ("forward", 128, 256): Tile(queries=128, keys=64, warps=8, stages=2, apart=True),
    ("keys", 64, 64): Tile(queries=32, keys=128, warps=8, stages=2),
    ("keys", 64, 128): Tile(queries=32, keys=128, warps=8, stages=2),
    ("keys", 128, 128): Tile(queries=32, keys=128, warps=8, stages=2),
    ("keys", 128, 256): Tile(queries=32, keys=128, warps=8, stages=2, apart=True),
    ("queries", 64, 64): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 64, 128): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 128, 128): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 128, 256): Tile(queries=128, keys=32, warps=8, stages=2),
}
"""by kernel, K and E as ``padded``"""

SINGLE = Tile(queries=32, keys=32, warps=4, stages=1)
"""fp32, which no matrix unit multiplies: for comparisons"""

ROWS = 32
"""of the kernel that only reads and adds up"""


def padded(width: int) -> int:
    """The width of the tiles for ``width``: a power of two, as Triton wants it, and 64 at least: Hopper's products
    have 64 rows, and K is the number of rows where the queries' gradients are made."""
    return max(64, 1 << (width - 1).bit_length())


def tile_of(kernel: str, K: int, E: int, element_bytes: int) -> Tile:
    """For the kernel "forward", "keys" or "queries"."""
    return HALF_TYPES[kernel, padded(K), padded(E)] if element_bytes < 4 else SINGLE
