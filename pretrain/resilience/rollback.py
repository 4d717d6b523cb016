"""Going back to before a series of bad steps, and around their samples.

In: the steps that were skipped (spikes.py). Out: the newest checkpoint before them is the newest one again, and their
samples stand in `runs/NAME/rollbacks.json`, which every later start adds to `data.skip`.
Always: checkpoints go first and the list is written last, so a kill in between only replays the bad steps.
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import TEMPORARY_SUFFIX, read_json, write_json
from data.batch import BatchSchedule
from data.config import SkipConfig
from data.stream import TokenStream
from pretrain.checkpoint.layout import list_steps, step_of
from pretrain.config import RunConfig

ROLLBACKS_FILE = "rollbacks.json"


def with_rollbacks(config: RunConfig) -> RunConfig:
    """``config`` with the samples of earlier rollbacks on its skip list."""
    skips = [
        SkipConfig(first, last) for rollback in read_rollbacks(config.run_folder) for first, last in rollback["samples"]
    ]
    known = {(skip.first, skip.last) for skip in config.data.skip}
    new = [skip for skip in skips if (skip.first, skip.last) not in known]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, skip=[*config.data.skip, *new]))


def read_rollbacks(run_folder: Path) -> list[dict[str, Any]]:
    """The rollbacks of a run so far, oldest first."""
    path = run_folder / ROLLBACKS_FILE
    rollbacks: list[dict[str, Any]] = read_json(path, "list of rollbacks") if path.exists() else []
    return rollbacks


def samples_of(stream: TokenStream, steps: Sequence[int], schedule: BatchSchedule) -> list[list[int]]:
    """The global samples of ``steps`` as ranges [first, last]."""
    trained = [np.arange(schedule.first_sample(step), schedule.first_sample(step + 1)) for step in steps]
    numbers = stream.skip.number_of(np.concatenate(trained))
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    return [[int(part[0]), int(part[-1])] for part in np.split(numbers, cuts)]


def roll_back(run_folder: Path, steps: Sequence[int], samples: list[list[int]]) -> int:
    """Makes the newest checkpoint before ``steps`` the newest one; returns its step, 0 for a start from nothing.

    Only rank 0 calls it, while no save is under way.
    """
    target = 0
    for folder in list_steps(run_folder / "checkpoints"):
        step = step_of(folder)
        if step <= min(steps):
            target = step
        else:
            doomed = folder.with_name(folder.name + TEMPORARY_SUFFIX)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    entry = {"time": time.time(), "back_to_step": target, "skipped_steps": list(steps), "samples": samples}
    write_json(run_folder / ROLLBACKS_FILE, [*read_rollbacks(run_folder), entry])
    return target
