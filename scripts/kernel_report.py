"""`make kernel-report`: the machine code of the fused operator's kernels, without a GPU; `--counts` prints counts only.

In: model/kernels/fused and Triton's compiler. Out: docs/kernels.json, a row for each kernel of each configuration that
the table of tiles can choose, and docs/kernels.md; exit status 1, with a line for each, where one spills, takes more
shared memory or registers than a multiprocessor of compute capability 9.0 has, multiplies without its matrix units or
multiplies twice. Always: no time is measured, and no GPU is looked for.
"""

import importlib.util
import os
import sys
import time
from pathlib import Path

from common.cli import run_command
from common.errors import InputError
from common.files import write_atomically
from common.flags import FlagParser
from common.ranges import check_range
from scripts.kernels.compiled import all_rows
from scripts.kernels.configurations import configurations
from scripts.kernels.counted import COUNTED_TOKENS, report
from scripts.kernels.page import fingerprint_of, page
from scripts.kernels.rows import complaints, write_rows

ROOT = Path(__file__).parents[1]
KERNELS = [path for path in (ROOT / "model" / "kernels" / "fused").glob("*.py") if path.name != "operator.py"]
"""all that machine code depends on; the operator only asks for it"""
ROWS = ROOT / "docs" / "kernels.json"
PAGE = ROOT / "docs" / "kernels.md"


def main(arguments: list[str]) -> int:
    """Writes both files."""
    parser = FlagParser(prog="python scripts/kernel_report.py", description=__doc__)
    parser.add_argument("--counts", action="store_true", help="print operations and bytes of all forms, and end")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that compile at the same time")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "processes", low=1)
    if flags.counts:
        print("\n".join(report()))
        return 0
    if importlib.util.find_spec("triton") is None:
        raise InputError("triton is not installed; `make setup` installs it, --counts does without")
    wanted = configurations()
    begin = time.monotonic()
    print(f"{len(wanted)} configurations, {flags.processes} processes", flush=True)

    def progress(done: int, count: int) -> None:
        print(f"{done} of {count} compiled, {time.monotonic() - begin:.0f} s", flush=True)

    rows = all_rows(wanted, flags.processes, progress)
    write_rows(rows, ROWS)
    write_atomically(PAGE, page(rows, report(), COUNTED_TOKENS, fingerprint_of(KERNELS)))
    print(f"{len(rows)} kernels in {ROWS.relative_to(ROOT)} and {PAGE.relative_to(ROOT)}")
    found = complaints(rows)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
