"""Training from a far store beside a local disk: `python scripts/bench_stream.py`, as root.

In: this machine, on which two nodes and a store are made, the store behind a limited link, answering after 50 ms and
spoiling answers now and then (scripts/stream). Out: in a folder, a table, the same as lines of JSON, and the logs.
Always: the same command with the same settings, on the same links, runs from the disk and from the store in turns; one
more run from the store loses a node to SIGKILL in the middle. Every run must have the same losses, bit for bit.
"""

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from common.cli import run_command
from common.files import finite
from common.flags import FlagParser
from common.ranges import check_range
from scripts.scale.links import Links, check_machine
from scripts.stream.lab import CACHE, NODES, STORE, WARM_UP, Lab, Run

BAR_SECONDS, BAR_BYTES = 1.03, 1.05
HEADS = ("median s", "slowest s", "ratio", "waited s", "used MB", "fetched", "ratio", "spoiled", "kernel", "cache MB")


def main(arguments: list[str]) -> int:
    """Runs, prints and saves."""
    parser = FlagParser(prog="python scripts/bench_stream.py", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench_stream"), help="a new folder, or one of its own"
    )
    parser.add_argument("--steps", type=int, default=128, help="of each run; 32 steps are one window")
    parser.add_argument("--rounds", type=int, default=2, help="runs from the disk, and as many from the store")
    parser.add_argument("--rate", type=float, default=1e6, help="bytes/s that the store can send")
    parser.add_argument("--fault-every", type=int, default=40, help="answers from one that is spoiled to the next")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "rounds", "fault_every", low=1)
    check_range(flags, "--", "steps", low=WARM_UP + 20)
    check_range(flags, "--", "rate", low=1e4)
    check_machine()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what Ctrl-C cleans up, an ending job does, too
    if (flags.output / "runs.jsonl").exists():
        shutil.rmtree(flags.output)
    flags.output.mkdir(parents=True, exist_ok=True)
    runs: list[Run] = []
    with (
        Links(NODES + 1) as links,
        (flags.output / "table.txt").open("w") as table,
        (flags.output / "runs.jsonl").open("w") as lines,
    ):

        def tell(text: str) -> None:
            for file in (sys.stdout, table):
                print(text, file=file, flush=True)

        lab = Lab(links, flags.output, flags.steps)
        links.limit(flags.rate, [STORE])
        lab.store.ask(f"faults {flags.fault_every}")
        tell(f"{'':<10}" + "".join(f"{head:>10}" for head in HEADS))
        turns = [(f"{kind} {number}", None) for number in range(flags.rounds) for kind in ("local", "store")]
        for name, kill_at in [*turns, ("killed", flags.steps // 2 + 5)]:
            runs.append(lab.run(name, str(lab.corpus) if name.startswith("local") else lab.store.url, kill_at))
            tell(line(runs[-1], runs))
            print(json.dumps(finite(asdict(runs[-1]))), file=lines, flush=True)
        for said in bars(runs):
            tell(said)
    return 0


def line(run: Run, runs: Sequence[Run]) -> str:
    """A row of the table; times beside the local runs' that there are."""
    cells = [f"{run.median:.3f}", f"{max(run.seconds):.3f}", f"{ratio(run, runs):.3f}", f"{run.waited:.2f}"]
    megabytes = [run.fetched, run.spoiled, run.sent, run.cache_peak]
    fetched, spoiled, sent, peak = (f"{size / 1e6:.2f}" if run.fetched else "" for size in megabytes)
    cells += [f"{run.used / 1e6:.2f}", fetched, f"{run.fetched / run.used:.3f}" if run.fetched else "", spoiled]
    return f"{run.name:<10}" + "".join(f"{cell:>10}" for cell in [*cells, sent, peak])


def ratio(run: Run, runs: Sequence[Run]) -> float:
    """The median step over that of the local run before it."""
    before = [other for other in runs[: runs.index(run) + 1] if other.name.startswith("local")]
    return run.median / before[-1].median


def bars(runs: Sequence[Run]) -> list[str]:
    """What is asked, and whether it holds."""
    stores = [run for run in runs if run.name.startswith("store")]
    ratios = [ratio(run, runs) for run in stores]
    shares = [run.fetched / run.used for run in stores]
    peak = max(run.cache_peak for run in runs)
    faults = {
        kind: sum(run.faults.get(kind, 0) for run in runs) for kind in sorted({k for r in runs for k in r.faults})
    }
    return [
        _bar(f"a step takes {min(ratios):.3f} of a local one (after {WARM_UP} steps)", min(ratios) <= BAR_SECONDS),
        _bar(f"{max(shares):.3f} bytes fetched for each used, spoiled answers included", max(shares) <= BAR_BYTES),
        _bar(f"caches of {CACHE / 1e6:.1f} MB held {peak / 1e6:.2f} at most", peak <= CACHE),
        _bar("all losses equal, bit for bit, also after the kill", all(run.losses == runs[0].losses for run in runs)),
        f"spoiled answers: {', '.join(f'{count} {kind}' for kind, count in faults.items()) or 'none'}",
        *(f"{run.name}: {run.farthest}" for run in runs if run.farthest),
    ]


def _bar(said: str, holds: bool) -> str:
    return f"{said}: {'holds' if holds else 'MISSED'}"


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
