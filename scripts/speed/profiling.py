"""A few training steps under torch.profiler.

In: a RandomRun. Out: an Account, and a trace for chrome://tracing or ui.perfetto.dev. Always: steps before the profiled
ones have chosen and loaded kernels and made the optimizer's state.
"""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from scripts.speed.shares import STEP, Account, account
from scripts.speed.stepping import RandomRun

WARMUP = 2
"""steps before the profiled ones"""


def profiled(run: RandomRun, steps: int, trace: Path | None = None) -> Account:
    """The account of ``steps`` steps of this rank; ``trace`` is the file to write (.json or .json.gz)."""
    on_gpu = run.engine.device.type == "cuda"
    for _ in range(WARMUP):
        run.step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        for _ in range(steps):
            with record_function(STEP):
                run.step()
                if on_gpu:
                    torch.cuda.synchronize()
    if trace is not None:
        recorded.export_chrome_trace(str(trace))
    return account(recorded.events(), on_gpu)
