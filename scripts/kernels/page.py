"""docs/kernels.md: the rows and the counts, and what they do and do not say.

In: rows, lines of the counts, and the fingerprint of the kernels' code. Out: the page. Always: the page names the code
that it was made from, so that a test finds one that is out of date.
"""

import ast
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.kernels.rows import MOST_REGISTERS, MOST_SHARED_BYTES, Row

INTRODUCTION = f"""# Kernels of the fused operator

Made by `make kernel-report`, on a machine without a GPU; do not edit. Every configuration that
`model/kernels/fused/tiles.py` can choose was compiled for compute capability 9.0 (H100, H200), and its machine code
looked at.

**Known:** the registers of a thread; that none is spilled to memory; the shared memory of a block, of
{MOST_SHARED_BYTES:,} bytes; that the products use Hopper's matrix instructions (HGMMA and no HMMA), and that
no group of warps computes what another one does; that a block's registers fit into the {MOST_REGISTERS:,} of a
multiprocessor. Operations and bytes are counted from the loops; tests compare the counts with a walk over every tile.

**Not known: time.** No GPU has run these kernels in this report. Tiles were chosen for what is listed here, not for
speed; `make bench-gpu` measures.
"""
COUNTS = """## Operations and bytes beside other forms

For one differential head, causal; in brackets the part of the first line. Bytes are those that programs ask of memory:
values that are read once per query block count once per query block, whether or not a cache has them. How many query
blocks there are is a matter of tiles, so the figures stand twice: with tiles of 64 x 64 for every form, and with each
form's own, flash-attn's as its version 2 has them on an H100. `python scripts/kernel_report.py --counts` prints this.

The last table is about widths that no kernel is built for. The fused operator fills K and E up to 64, 128 or 256 with
zeros that cost no memory traffic but are multiplied; flash-attn 2 has kernels of 96 and 192, too. So of the papers'
models K 96 (830M) and K 88 (13B) give away part of what the operator saves beside grouped queries; at K 104 (1.4B to
6.8B) both are filled up alike.
"""
MACHINE_CODE = """## Machine code

Registers are of one thread, shared memory of one block; products and bytes of a head and {tokens:,} tokens.

| kernel | K, E | keys | type | documents | threads | registers | spills | shared bytes | HGMMA | 10^9 products | MB |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def page(rows: Iterable[Row], counts: Sequence[str], tokens: int, fingerprint: str) -> str:
    """The text of the page."""
    lines = [INTRODUCTION, COUNTS, "```", *counts, "```", "", MACHINE_CODE.format(tokens=tokens)]
    lines += map(_line, rows)
    return "\n".join([*lines, "", f"Code: {fingerprint}", ""])


def fingerprint_of(files: Iterable[Path]) -> str:
    """Of Python code, comments and docstrings left out."""
    found = hashlib.sha256()
    for path in sorted(files):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [part for part in node.body if not _is_text(part)]
        found.update(f"{path.name}\n{ast.dump(tree)}\n".encode())
    return found.hexdigest()[:16]


def _line(row: Row) -> str:
    cells = (
        f"`{row.name}`, {row.direction}",
        "{}, {}".format(*row.widths),
        str(row.key_streams),
        row.dtype,
        "yes" if row.documents else "no",
        str(row.threads),
        str(row.registers),
        str(row.spills),
        f"{row.shared_bytes:,}",
        str(row.hgmma),
        f"{row.operations / 1e9:.2f}",
        f"{row.bytes / 1e6:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
