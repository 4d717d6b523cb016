"""The folders of a run: readable where it reads, writable and shared where it writes, with room for its checkpoints.

In: a RunConfig and the ranks. Out: Findings; each problem names the node.
"""

import shutil
import time
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch.distributed as dist

from common.errors import InputError
from common.files import open_itself
from data.stream import open_stream
from launch.checks.finding import Finding, Level
from launch.checks.ranks import Ranks
from pretrain.checkpoint.layout import checkpoints_of, list_steps
from pretrain.config import RunConfig
from pretrain.plan.memory import checkpoint_bytes

PATIENCE_SECONDS = 10.0
"""longest wait until a file that another node wrote is listed; network file systems keep old listings for a while"""


def check_storage(config: RunConfig, ranks: Ranks) -> list[Finding]:
    """Every node reads a sample and sees what the other nodes write; a collective call."""
    return [
        _judge("data", ranks.ask_nodes(_data_problem(config, ranks)), "every node reads it"),
        _judge(
            "run folder", ranks.ask_nodes(_sharing_problem(config.run_folder, ranks)), f"{config.run_folder} is shared"
        ),
        ranks.ask(check_space(config) if ranks.rank == 0 else Finding("space", ""))[0],
    ]


def check_space(config: RunConfig) -> Finding:
    """Is there room for the checkpoints that will lie there at the same time?"""
    size = checkpoint_bytes(config)
    free = shutil.disk_usage(_existing(config.run_folder)).free
    every = config.checkpoint.every or config.train.steps
    total = -(-config.train.steps // every)
    kept = min(config.checkpoint.keep + 1, total) if config.checkpoint.keep else total  # one more while it is written
    there = len(list_steps(checkpoints_of(config.run_folder)))
    needed = size * max(0, kept - there)
    text = f"{_size(free)} free for {kept} checkpoints of {_size(size)} ({there} are there)"
    if needed > free:
        return Finding("space", f"{config.run_folder}: {text}; free some, or lower checkpoint.keep", Level.ERROR)
    return Finding("space", text)


def writing_problem(folder: Path) -> str | None:
    """Why this process cannot write into ``folder``, or into the nearest folder above it that exists; or None."""
    try:
        with NamedTemporaryFile(dir=_existing(folder), prefix=".probe_"):
            return None
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"


def data_problem(config: RunConfig) -> str | None:
    """Why this process cannot read the training data, or None."""
    try:
        open_stream(config.data, config.seed).fetch(np.zeros(1, dtype=np.int64))
    except (InputError, OSError) as error:
        return str(error)
    return None


def _data_problem(config: RunConfig, ranks: Ranks) -> str | None:
    return data_problem(config) if ranks.speaks_for_node else None


def _sharing_problem(folder: Path, ranks: Ranks) -> str | None:
    problem = None
    mine = folder / f".probe_{ranks.hosts[ranks.rank]}"
    if ranks.speaks_for_node:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            open_itself(mine, "w").close()
        except OSError as error:
            problem = f"{folder} cannot be written: {error.strerror}"
    _barrier(ranks)
    if ranks.speaks_for_node and problem is None:
        expected = {f".probe_{node}" for node in ranks.nodes}
        missing = _missing(folder, expected)
        if missing:
            nodes = ", ".join(sorted(name.removeprefix(".probe_") for name in missing))
            problem = f"{folder} does not show what {nodes} wrote: it must lie on a file system that all nodes share"
    _barrier(ranks)
    mine.unlink(missing_ok=True)
    return problem


def _missing(folder: Path, expected: set[str]) -> set[str]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        missing = expected - {path.name for path in folder.glob(".probe_*")}
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.1)


def _judge(what: str, problems: dict[str, str | None], good: str) -> Finding:
    told = [f"{node}: {problem}" for node, problem in problems.items() if problem]
    return Finding(what, "; ".join(told), Level.ERROR) if told else Finding(what, good)


def _existing(folder: Path) -> Path:
    """``folder`` or the nearest folder above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _barrier(ranks: Ranks) -> None:
    if len(ranks.hosts) > 1:
        dist.barrier()


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
