"""Which tiles each kernel works on, for every width.

In: a kernel's name, widths, bytes of an element. Out: a Tile. Always: chosen by reports of the compiler for sm_90, not
by timings: no registers spilled, Hopper's matrix instructions, at most 227 KB of shared memory; among these the widest.
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
    ("forward", 32, 64): Tile(queries=128, keys=64, warps=8, stages=3),
    ("forward", 64, 128): Tile(queries=128, keys=64, warps=8, stages=3),
    ("forward", 128, 256): Tile(queries=64, keys=64, warps=8, stages=2),
    ("forward", 32, 32): Tile(queries=128, keys=64, warps=8, stages=3),
    ("forward", 64, 64): Tile(queries=128, keys=64, warps=8, stages=3),
    ("forward", 128, 128): Tile(queries=128, keys=64, warps=8, stages=2),
    ("keys", 32, 64): Tile(queries=64, keys=128, warps=8, stages=2),
    ("keys", 64, 128): Tile(queries=64, keys=128, warps=8, stages=2),
    ("keys", 128, 256): Tile(queries=32, keys=64, warps=8, stages=1),
    ("keys", 32, 32): Tile(queries=64, keys=128, warps=8, stages=2),
    ("keys", 64, 64): Tile(queries=64, keys=128, warps=8, stages=2),
    ("keys", 128, 128): Tile(queries=64, keys=64, warps=8, stages=2),
    ("queries", 32, 64): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 64, 128): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 128, 256): Tile(queries=128, keys=32, warps=8, stages=1),
    ("queries", 32, 32): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 64, 64): Tile(queries=128, keys=64, warps=8, stages=2),
    ("queries", 128, 128): Tile(queries=128, keys=64, warps=8, stages=2),
}
"""by kernel, K and E padded to powers of two"""

SINGLE = Tile(queries=32, keys=32, warps=4, stages=1)
"""fp32, which no matrix unit multiplies: for comparisons"""


def padded(width: int) -> int:
    """The power of two, 32 at least, that ``width`` is filled up to."""
    return max(32, 1 << (width - 1).bit_length())


def tile_of(kernel: str, K: int, E: int, element_bytes: int) -> Tile:
    """For the kernel "forward", "keys" or "queries"."""
    return HALF_TYPES[kernel, padded(K), padded(E)] if element_bytes < 4 else SINGLE
