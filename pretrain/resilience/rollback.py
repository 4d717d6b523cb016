"""Going back to before a series of bad steps, and around their samples.

In: the steps that were skipped (spikes.py). Out: the newest checkpoint before them is the newest one again, and their
samples stand in `runs/NAME/rollbacks.json`, which every later start adds to `data.skip`.
Always: checkpoints go first and the list is written last, so a kill in between only replays the bad steps.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import read_json, write_atomically, write_json
from common.typed import check_complete, check_section
from data.batch import BatchSchedule
from data.config import SkipConfig
from data.stream import TokenStream
from pretrain.checkpoint.layout import POINTER, checkpoints_of, list_steps, step_folder, step_of
from pretrain.checkpoint.retention import remove_checkpoint
from pretrain.config import RunConfig

ROLLBACKS_FILE = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One entry of the file."""

    time: float
    back_to_step: int
    skipped_steps: list[int]
    samples: list[list[int]]
    """first and last of every range of global samples"""


def with_rollbacks(config: RunConfig) -> RunConfig:
    """``config`` with the samples of earlier rollbacks on its skip list."""
    skips = [
        SkipConfig(first, last) for rollback in read_rollbacks(config.run_folder) for first, last in rollback.samples
    ]
    known = {(skip.first, skip.last) for skip in config.data.skip}
    new = [skip for skip in skips if (skip.first, skip.last) not in known]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, skip=[*config.data.skip, *new]))


def read_rollbacks(run_folder: Path) -> list[Rollback]:
    """The rollbacks of a run so far, oldest first.

    Raises:
        InputError: the file holds something else.
    """
    path = run_folder / ROLLBACKS_FILE
    entries = read_json(path, "list of rollbacks") if path.exists() else []
    if not isinstance(entries, list):
        raise InputError(f"{path}: not a list of rollbacks; bring it back, or move it away to train on their samples")
    for number, entry in enumerate(entries):
        where = f"{path}: rollback {number}"
        check_section(Rollback, entry, where)
        check_complete(Rollback, entry, where)
        ranges = entry["samples"]
        if not entry["skipped_steps"] or any(len(pair) != 2 or not 0 <= pair[0] <= pair[1] for pair in ranges):
            raise InputError(f"{where}: no steps, or a range of samples that is none")
    return [Rollback(**entry) for entry in entries]


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
    for folder in list_steps(checkpoints_of(run_folder)):
        step = step_of(folder)
        if step <= min(steps):
            target = step
        else:
            remove_checkpoint(folder)
    pointer = checkpoints_of(run_folder) / POINTER
    if target:
        write_atomically(pointer, step_folder(pointer.parent, target).name + "\n")
    else:
        pointer.unlink(missing_ok=True)
    rollbacks = [*read_rollbacks(run_folder), Rollback(time.time(), target, list(steps), samples)]
    write_json(run_folder / ROLLBACKS_FILE, [dataclasses.asdict(rollback) for rollback in rollbacks])
    return target
