"""From a checkpoint back into a running engine, on whatever topology there is now.

In: the checkpoints folder and a fresh engine. Out: the checkpoint, and the engine with its weights and moments.
Always: the newest whole checkpoint is taken; a damaged one is named and passed over; all ranks take the same; where
there are some and none is whole, that is an error and not a beginning.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from common.errors import InputError
from pretrain.checkpoint.agreement import first_problem, told_by_main
from pretrain.checkpoint.layout import POINTER, WEIGHT, list_steps
from pretrain.checkpoint.reader import CheckpointReader, RangeReader
from pretrain.checkpoint.state import local_fragments
from pretrain.engines.engine import Engine
from pretrain.optimizers.base import set_applied_steps
from pretrain.topology import Topology


def newest_whole(
    checkpoints: Path, topology: Topology, check: Callable[[CheckpointReader], None] = lambda _: None
) -> CheckpointReader | None:
    """The newest checkpoint in which every byte is right; the ranks share the reading and agree.

    Args:
        check: what else must hold; raises InputError.

    Returns:
        None where there are no checkpoints at all.

    Raises:
        InputError: there are some, and none can be used: a run must not begin anew over them.
    """
    names = told_by_main(topology, lambda: _names(checkpoints))
    problem = ""
    for name in reversed(names):
        try:
            return whole(checkpoints / name, topology, check)
        except InputError as error:
            problem = problem or str(error)
            if topology.is_main:
                print(f"warning: {error}; passing over {name}", flush=True)
    if names:
        raise InputError(
            f"{checkpoints}: none of its {len(names)} checkpoints can be used; the newest: {problem}; put a whole copy "
            "there, or move the folder away to begin at step 0"
        )
    return None


def _names(checkpoints: Path) -> list[str]:
    """Of what is there, oldest first. Raises InputError where the newest was there and is gone with all others."""
    names = [folder.name for folder in list_steps(checkpoints)]
    if not names and (checkpoints / POINTER).exists():
        raise InputError(
            f"{checkpoints}: '{POINTER}' names a checkpoint, but there is none; put a whole copy there, or move the "
            "folder away to begin at step 0"
        )
    return names


def whole(
    folder: Path, topology: Topology, check: Callable[[CheckpointReader], None] = lambda _: None
) -> CheckpointReader:
    """The checkpoint in ``folder``, every byte of it read by some rank.

    Raises:
        InputError: on every rank, what the lowest rank found that found something.
    """
    reader, problem = None, None
    try:
        reader = CheckpointReader(folder)
        check(reader)
        reader.verify(part=topology.rank, parts=topology.world_size)
    except (InputError, OSError) as error:
        problem = str(error)
    found = first_problem(topology, problem)
    if reader is None or found is not None:
        raise InputError(str(found))
    return reader


@torch.no_grad()
def load(engine: Engine, reader: RangeReader, applied_steps: int, moments: bool = True) -> None:
    """Fills the weights of ``engine``, and its ``moments``, from a checkpoint of any topology."""
    for fragment in local_fragments(engine):
        if fragment.kind != WEIGHT and not moments:
            continue
        values = reader.read_range(
            fragment.name,
            fragment.kind,
            fragment.layout,
            fragment.tensor_rank,
            fragment.start,
            fragment.values.numel(),
        )
        fragment.values.copy_(values)
    set_applied_steps(engine.optimizer, applied_steps)
    engine.publish_weights()
