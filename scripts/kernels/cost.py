"""What a pass of an attention kernel costs: multiply-adds, exponentials and bytes, from its loops alone.

In: a pass, declared as what it holds and what it streams, and the sequence's length. Out: a ``Cost``. Always: whole
numbers, for one sequence, causal; nothing is measured, and nothing is known of caches.

A tiled kernel has an outer loop over blocks of one side (its programs) and an inner loop over blocks of the other. What
belongs to the outer block is *held*: read or written once for each of its rows. What belongs to the inner block is
*streamed*: read, or added to, once for each tile that is visited. A tile is visited where its last query sees its first
key, and is computed whole: the mask saves bytes and products by whole tiles only. Rows beyond the sequence are
computed, and neither read nor written.

Bytes are what the programs ask of memory, the second-level cache included: values "read once per query block" count
once per query block. An atomic addition in fp32 is a read and a write, 8 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

FP32 = 4
ATOMIC = 2 * FP32


@dataclass(frozen=True)
class Blocks:
    """Rows of a tile."""

    queries: int
    keys: int
    apart: bool = False
    """a fused kernel walks them twice, for a part of its results each time"""


@dataclass(frozen=True)
class Cost:
    """Of one pass, or of several together."""

    multiply_adds: int = 0
    """in matrix products"""
    exponentials: int = 0
    bytes: Mapping[str, int] = field(default_factory=dict)
    """moved between the kernels and memory, by tensor; a gradient is named after its tensor, as dv"""

    def __add__(self, other: "Cost") -> "Cost":
        names = [*self.bytes, *(name for name in other.bytes if name not in self.bytes)]
        return Cost(
            self.multiply_adds + other.multiply_adds,
            self.exponentials + other.exponentials,
            {name: self.bytes.get(name, 0) + other.bytes.get(name, 0) for name in names},
        )

    @property
    def all_bytes(self) -> int:
        """Of all tensors."""
        return sum(self.bytes.values())

    @property
    def value_bytes(self) -> int:
        """Of the values and their gradients."""
        return self.bytes.get("v", 0) + self.bytes.get("dv", 0)


NOTHING = Cost()


@dataclass(frozen=True)
class Pass:
    """A tiled kernel. Widths are bytes per row: of a query for what belongs to queries, of a key for the others."""

    outer: str
    """"queries" or "keys": the side whose blocks are programs"""
    programs: int
    """heads that the outer side is cut into"""
    walks: int
    """heads whose tiles are walked: a program of a key/value head may walk all of its query heads"""
    held: Mapping[str, int]
    streamed: Mapping[str, int]
    multiply_adds: int
    """of one pair of a query and a key, in one walk"""
    exponentials: int

    def cost(self, T: int, blocks: Blocks) -> Cost:
        """For a causal sequence of ``T`` tokens."""
        pairs = self.walks * tiles(T, blocks) * blocks.queries * blocks.keys
        rows = key_rows(T, blocks) if self.outer == "queries" else query_rows(T, blocks)
        moved = {name: self.programs * T * width for name, width in self.held.items()}
        moved |= {name: self.walks * rows * width for name, width in self.streamed.items()}
        return Cost(pairs * self.multiply_adds, pairs * self.exponentials, moved)


def elementwise(rows: int, widths: Mapping[str, int]) -> Cost:
    """A kernel that reads or writes ``widths`` bytes of each of ``rows`` rows."""
    return Cost(bytes={name: rows * width for name, width in widths.items()})


def tiles(T: int, blocks: Blocks) -> int:
    """Tiles that are visited."""
    return sum(_ceil(end, blocks.keys) for end in _ends(T, blocks.queries))


def key_rows(T: int, blocks: Blocks) -> int:
    """Keys that all blocks of queries read, together."""
    return sum(min(T, _ceil(end, blocks.keys) * blocks.keys) for end in _ends(T, blocks.queries))


def query_rows(T: int, blocks: Blocks) -> int:
    """Queries that all blocks of keys read, together: from the block of queries that holds the first key on."""
    return sum(T - start // blocks.queries * blocks.queries for start in range(0, T, blocks.keys))


def _ends(T: int, size: int) -> list[int]:
    return [min(T, start + size) for start in range(0, T, size)]


def _ceil(number: int, size: int) -> int:
    return -(-number // size)
