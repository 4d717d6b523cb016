"""`make bench-gpu`: what this project's kernels and models do on one GPU.

In: a CUDA device; --rehearse goes the same way with tiny sizes on a CPU. Out: tables, and --output as JSON with the
device's name, date and versions; `--readme FILE.json` writes the README's table from such a file. Always: correctness
comes first: every form of attention and every fused operation that can run here against fp64; a wrong one ends it.

Then: operators forward and backward, a training step of every kind of attention, and of whole models MFU, memory beside
the plan and where the time goes.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.cli import run_command
from common.errors import InputError
from common.flags import FlagParser
from common.output import say

README = Path(__file__).parents[1] / "README.md"


def main(arguments: list[str]) -> int:
    """Measures, or writes the table."""
    parser = FlagParser(prog="python scripts/bench_gpu.py", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU; the figures mean nothing")
    parser.add_argument("--output", default="runs/bench_gpu.json", help="file for the figures")
    parser.add_argument("--readme", help="write the README's table from this file, and measure nothing")
    flags = parser.parse_args(arguments)
    if flags.readme:
        from scripts.speed.readme import write_readme
        from scripts.speed.results import read_results

        write_readme(README, read_results(Path(flags.readme)))
        return 0
    if not flags.rehearse and not torch.cuda.is_available():
        raise InputError("make bench-gpu: there is no CUDA device here; --rehearse runs on a CPU")
    return _measure(Path(flags.output), flags.rehearse)


def _measure(output: Path, rehearsal: bool) -> int:
    from pretrain.engines.accelerator import choose_accelerator

    choose_accelerator()
    from pretrain.engines.connection import connect, disconnect
    from scripts.speed.attention_checks import attention_checks
    from scripts.speed.attention_rows import attention_rows
    from scripts.speed.kinds import kind_rows
    from scripts.speed.models import measure_models, one_process
    from scripts.speed.operators import rowwise_rows
    from scripts.speed.results import Results
    from scripts.speed.rowwise_checks import rowwise_checks
    from scripts.speed.sizes import MEASUREMENT, REHEARSAL

    sizes = REHEARSAL if rehearsal else MEASUREMENT
    results = Results(output, sizes.device, rehearsal)
    for dtype in dict.fromkeys((sizes.dtype, torch.float32)):
        checks = rowwise_checks(sizes.device, dtype, sizes.left_out)
        checks |= attention_checks(sizes.device, dtype, sizes.checked_lengths, sizes.checked_head_dims)
        if not _all_right(checks, dtype):
            return 1
    connect(one_process())
    parts: Sequence[tuple[str, Callable[[Any], Iterable[Any]]]] = (
        ("attention", attention_rows),
        ("rowwise", rowwise_rows),
        ("kinds", kind_rows),
        ("models", measure_models),
    )
    for name, measure in parts:
        rows = list(measure(sizes))
        results.add(name, rows)
        print("\n".join([f"\n{name}", *(_line(row) for row in rows)]), flush=True)
    disconnect()
    print(f"\nwritten to {output}")
    return 0


def _all_right(checks: dict[str, Callable[[], None]], dtype: torch.dtype) -> bool:
    from scripts.speed.comparing import WrongResult

    for name, check in checks.items():
        try:
            check()
        except WrongResult as error:
            say(f"wrong: {name}: {error}; nothing is measured")
            return False
    print(f"{len(checks)} checks against fp64 in {str(dtype).removeprefix('torch.')}: all right", flush=True)
    return True


def _line(row: Any) -> str:
    """The fields of a row that are there, one after the other."""
    return "  " + ", ".join(f"{name} {_shown(value)}" for name, value in vars(row).items() if value is not None)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {share:.1%}" for name, share in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
