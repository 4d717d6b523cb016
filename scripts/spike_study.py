"""What the spike rule costs healthy runs, and what it is good for: `python scripts/spike_study.py`.

In: how many small runs, each with settings of its own, that learn to copy. Out: FOLDER/trace_N.json per run, and
FOLDER/figures.json, which is printed as a table: healthy steps skipped and bad batches caught, by today's rule and by
the one before it, and what a bad step does that is applied.
Always: a trace that is there is not made again, so several commands can share the work.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from common.cli import run_command
from common.errors import InputError
from common.files import finite, write_atomically
from common.flags import FlagParser
from common.ranges import check_range
from scripts.spikes.judging import figures, table
from scripts.spikes.trial import AFTERWARDS, run_trial


def main(arguments: list[str]) -> int:
    """Trains what is missing and judges it."""
    parser = FlagParser(prog="python scripts/spike_study.py", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/spike_study"), help="folder of traces and figures")
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--runs", type=int, default=30, help="how many")
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    flags = parser.parse_args(arguments)
    check_range(flags, "--", "first", low=0)
    check_range(flags, "--", "runs", low=1)
    check_range(flags, "--", "steps", low=2 * AFTERWARDS)
    torch.set_num_threads(1)
    flags.output.mkdir(parents=True, exist_ok=True)
    traces = []
    for number in range(flags.first, flags.first + flags.runs):
        path = flags.output / f"trace_{number}.json"
        if not path.exists():
            write_atomically(path, json.dumps(run_trial(number, flags.steps)))
        trace = read_trace(path, flags.steps)
        print(f"run {number}: loss {trace['losses'][-1]:.3f}, copies {trace['copied']:.0%}", flush=True)
        traces.append(trace)
    found = figures(traces)
    write_atomically(flags.output / "figures.json", json.dumps(finite(found), indent=1))
    for line in table(found):
        print(line)
    return 0


def read_trace(path: Path, steps: int) -> dict[str, Any]:
    """The trace that ``path`` holds.

    Raises:
        InputError: it is none, or one of another number of steps.
    """
    try:
        trace: dict[str, Any] = json.loads(path.read_text())
        found = len(trace["losses"])
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{path}: no trace of this study; delete it") from None
    if found != steps:
        raise InputError(f"{path}: has {found} steps, not {steps}; choose another --output")
    return trace


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
