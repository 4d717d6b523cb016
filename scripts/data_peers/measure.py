"""Measures one loader: first batch, rate, memory.

In: a function that opens the loader at a sample and returns a function that gives the next batch. Out: one line of
JSON on standard output. Always: needs numpy alone, so that a peer can run it in an environment of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

NextBatch = Callable[[], np.ndarray]
"""Returns tokens [BATCH, T + 1], or [BATCH, T] where the system cuts samples without overlap."""

BATCH = 8


def measure(open_loader: Callable[[list[Path], int, int], NextBatch]) -> None:
    """Runs the loader that ``open_loader(folders, sequence_length, first_sample)`` opens, as the flags say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folders", nargs="+", type=Path, required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--first-sample", type=int, default=0)
    parser.add_argument("--batches", type=int, default=500)
    flags = parser.parse_args()
    memory = resident_bytes()
    begin = time.perf_counter()
    next_batch = open_loader(flags.folders, flags.sequence_length, flags.first_sample)
    first = next_batch()
    first_batch = time.perf_counter() - begin
    assert first.shape[0] == BATCH
    assert first.shape[1] in (flags.sequence_length, flags.sequence_length + 1)
    begin = time.perf_counter()
    for _ in range(flags.batches):
        next_batch()
    rate = flags.batches * BATCH * flags.sequence_length / (time.perf_counter() - begin)
    result = {"first_batch": first_batch, "rate": rate, "memory": resident_bytes() - memory}
    print(json.dumps(result), flush=True)


def resident_bytes() -> int:
    """Memory of this process that is in use now, files mapped into it included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
