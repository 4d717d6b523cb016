"""The rows of docs/kernels.json: what is known of each kernel that can be launched, and what is wrong with it.

In: compiled kernels and counts. Out: rows, as JSON and back, and a line for each row that breaks a limit. Always: facts
of machine code and counts; no time.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.files import write_atomically

MOST_SHARED_BYTES = 232_448
"""of a block on compute capability 9.0: 227 KB"""
MOST_REGISTERS = 65_536
"""of a multiprocessor, which a block's threads share"""


@dataclass(frozen=True)
class Row:
    """One kernel of one configuration."""

    name: str
    """the kernel"""
    direction: str
    """what launches it: forward, backward, or backward in a fixed order"""
    widths: tuple[int, int]
    """of a key and of a value: K, E"""
    key_streams: int
    """2; 1 where both queries read one key"""
    documents: bool
    """attention stays inside documents"""
    dtype: str
    threads: int
    registers: int
    """of a thread"""
    spills: int
    """bytes of a thread, or instructions, that registers did not hold"""
    shared_bytes: int
    hgmma: int
    """Hopper's matrix instructions in the code"""
    hmma: int
    """those of one warp, older and slower"""
    repetition: float
    """products computed for each one needed"""
    operations: int
    """multiply-adds of matrix products, for COUNTED_TOKENS of one head"""
    exponentials: int
    bytes: int
    """moved between the kernel and memory, for as many"""


def problems(row: Row) -> Iterator[str]:
    """What of the row breaks a limit of compute capability 9.0, or leaves its matrix units unused."""
    if row.spills:
        yield f"{row.spills} bytes or instructions of spills"
    if row.shared_bytes > MOST_SHARED_BYTES:
        yield f"{row.shared_bytes:,} bytes of shared memory, {MOST_SHARED_BYTES:,} are there"
    if row.operations and not row.hgmma:
        yield "no HGMMA, though it multiplies matrices"
    if row.hmma:
        yield f"{row.hmma} HMMA, a warp's own matrix instructions"
    if row.repetition > 1:
        yield f"products are computed {row.repetition:.2f} times"
    if row.registers * row.threads > MOST_REGISTERS:
        yield f"{row.registers} registers in {row.threads} threads, {MOST_REGISTERS:,} are there"


def complaints(rows: Iterable[Row]) -> list[str]:
    """A line for each row with problems."""
    return [f"{title(row)}: {'; '.join(found)}" for row in rows if (found := list(problems(row)))]


def title(row: Row) -> str:
    """A row's configuration in words."""
    keys = "one key" if row.key_streams == 1 else "two keys"
    documents = ", documents" if row.documents else ""
    return f"{row.name}, {row.direction}, K {row.widths[0]}, E {row.widths[1]}, {keys}, {row.dtype}{documents}"


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """A row of the list on a line of the file."""
    lines = (json.dumps(dataclasses.asdict(row)) for row in rows)
    write_atomically(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_rows(path: Path) -> list[Row]:
    """What ``write_rows`` wrote."""
    return [Row(**{**values, "widths": tuple(values["widths"])}) for values in json.loads(path.read_text())]
