"""How often a kernel computes each product, from Triton's listing of the layouts that it chose.

In: a kernel in Triton's last representation with layouts (TTGIR). Out: products computed for each one needed. Always: 1
where no warp computes what another one does.

Triton spreads the warps of a product whose result feeds another product over its rows alone, 16 rows for each warp
(`warpsPerTileV3`). With 8 warps, a tile of 64 rows is then computed by both groups of four: twice the arithmetic and
twice the registers, and nothing in the machine code says so.
"""

import re

LAYOUT = re.compile(
    r"^#(mma\d*) = #ttg\.nvidia_mma<\{.*warpsPerCTA = \[(\d+), (\d+)\], instrShape = \[(\d+), (\d+)", re.MULTILINE
)
PRODUCT = re.compile(
    r"warp_group_dot .* : \S+?<\d+x(\d+)x[^*]* \* .* -> tensor<(\d+)x(\d+)xf32, #(mma\d*)>"
)  # rows and columns of the result; the inner size is the left side's second


def repetition(listing: str) -> float:
    """Multiply-adds that warps compute for each one that the kernel asks for; 0 where it multiplies no matrices."""
    layouts = {name: tuple(map(int, sizes)) for name, *sizes in LAYOUT.findall(listing)}
    computed = needed = 0
    for inner, rows, columns, name in PRODUCT.findall(listing):
        down, across, tall, wide = layouts[name]
        shape = int(rows), int(columns)
        needed += shape[0] * shape[1] * int(inner)
        computed += max(shape[0], down * tall) * max(shape[1], across * wide) * int(inner)
    return computed / needed if needed else 0.0
