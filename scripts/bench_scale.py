"""A step on slow links: `python scripts/bench_scale.py`, as root.

In: this machine, on which nodes of one process are made, joined by links of set rates (scripts/scale/links.py). Out: in
a folder, a table, the same as lines of JSON, a picture of step time over link rate, and the log of all processes.
Always: each row is written as soon as it is measured. A link's rate is set so that the program's exchange, by the
planner's bytes, would take a share of the arithmetic, which is the step of a plain loop that exchanges nothing.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli import run_command
from common.errors import InputError
from common.flags import FlagParser
from common.ranges import check_range
from pretrain.engines.accelerator import choose_accelerator
from scripts.scale.lab import Race, Row, measure, race
from scripts.scale.links import Links, check_machine
from scripts.scale.programs import Program, all_programs, yardstick
from scripts.scale.results import BAR_SHARE, draw, header, line, race_line, save

CURVE = (0.15, 0.3, BAR_SHARE, 1.0)
"""shares of the arithmetic for the picture: one precision, one micro-batch"""
QUICK = ("plain fp32", "zero1 fp32 overlap", "zero1 fp32 no overlap")


def main(arguments: list[str]) -> int:
    """Measures, prints and saves."""
    parser = FlagParser(prog="python scripts/bench_scale.py", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench_scale"), help="folder for table and picture")
    parser.add_argument("--only", default="", help="rows whose names contain one of these, as in 'zero1 fp32,ddp'")
    parser.add_argument("--quick", action="store_true", help="one program, one rate, few steps: two minutes")
    parser.add_argument("--steps", type=int, default=6, help="measured steps for each rate")
    parser.add_argument("--racing-steps", type=int, default=200, help="steps under random delays")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "steps", "racing_steps", low=1)
    chosen = _chosen(flags.only, flags.quick)
    check_machine()
    choose_accelerator()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what Ctrl-C cleans up, an ending job does, too
    flags.output.mkdir(parents=True, exist_ok=True)
    with (
        (flags.output / "table.txt").open("w") as table,
        (flags.output / "rows.jsonl").open("w") as lines,
    ):

        def tell(text: str, result: Row | Race | None = None) -> None:
            for file in (sys.stdout, table):
                print(text, file=file, flush=True)
            if result is not None:
                save(result, lines)

        tell(header())
        rows = _measure_all(chosen, flags.output / "processes.log", 3 if flags.quick else flags.steps, flags, tell)
    if draw(rows, flags.output / "scale.png"):
        print(f"picture: {flags.output / 'scale.png'}")
    return 0


def _measure_all(
    chosen: Sequence[Program], log: Path, steps: int, flags: object, tell: Callable[..., None]
) -> list[Row]:
    rows: list[Row] = []
    arithmetic: dict[Program, float] = {}
    for program in chosen:
        try:
            with Links(program.nodes) as links:
                if program.kind == "races":
                    result = race(program, links, log, flags.racing_steps)  # type: ignore[attr-defined]
                    tell(race_line(result), result)
                    continue
                shares = shares_of(program, quick=flags.quick)  # type: ignore[attr-defined]
                for row in measure(program, links, log, arithmetic.get(yardstick(program)), shares, steps):
                    rows.append(row)
                    tell(line(row), row)
                    if program.kind == "plain":
                        arithmetic[program] = row.seconds
        except RuntimeError as error:  # others can still be measured
            tell(f"{program.name:<24} failed: {error}")
    return rows


def shares_of(program: Program, quick: bool = False) -> tuple[float, ...]:
    """The rates that a program is measured at."""
    curve = program.precision == "fp32" and program.micro_batches == 1 and not quick
    return CURVE if curve else (BAR_SHARE,)


def _chosen(only: str, quick: bool) -> list[Program]:
    """The programs to measure, and the plain loops that set their links' rates."""
    programs = all_programs()
    if quick:
        return [program for program in programs if program.name in QUICK]
    parts = [part.strip() for part in only.split(",") if part.strip()]
    if not parts:
        return programs
    found = [program for program in programs if any(part in program.name for part in parts)]
    if not found:
        raise InputError(f"--only {only}: no row is called so; there are {', '.join(p.name for p in programs)}")
    needed = {yardstick(program) for program in found if program.kind in ("engine", "ddp")}
    return [program for program in programs if program in found or program in needed]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
