"""From a checkpoint back into a running engine, on whatever topology there is now.

In: the checkpoints folder and a fresh engine. Out: the step to go on from and the trainer's state.
Always: the newest whole checkpoint is taken; a damaged one is named and passed over; all ranks take the same.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist

from common.errors import InputError
from pretrain.checkpoint.layout import KINDS, Kind, TensorLayout, list_steps
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.state import local_fragments, publish
from pretrain.engine import Engine
from pretrain.topology import Topology


class RangeReader(Protocol):
    """A checkpoint, as itself or converted."""

    def read_range(
        self, name: str, kind: Kind, target: TensorLayout, rank: int, start: int, numel: int
    ) -> torch.Tensor:
        """See CheckpointReader."""


def newest_step(checkpoints: Path) -> int:
    """The step of the newest checkpoint whose manifest and file sizes are right; 0 where there is none."""
    for folder in reversed(list_steps(checkpoints)):
        try:
            return CheckpointReader(folder).step
        except InputError:
            continue
    return 0


def newest_whole(checkpoints: Path, topology: Topology) -> CheckpointReader | None:
    """The newest checkpoint in which every byte is right; the ranks share the reading and agree."""
    for folder in reversed(list_steps(checkpoints)):
        reader, problem = None, None
        try:
            reader = CheckpointReader(folder)
            reader.verify(part=topology.rank, parts=topology.world_size)
        except (InputError, OSError) as error:
            problem = str(error)
        problems: list[str | None] = [problem]
        if topology.world_size > 1:
            problems = [None] * topology.world_size
            dist.all_gather_object(problems, problem)
        found = next((text for text in problems if text), None)
        if found is None:
            return reader
        if topology.is_main:
            print(f"warning: {found}; passing over {folder.name}", flush=True)
    return None


@torch.no_grad()
def load(engine: Engine, reader: RangeReader, applied_steps: int, kinds: Sequence[Kind] = KINDS) -> None:
    """Fills weights and Adam moments of ``engine``, or only some ``kinds``, from a checkpoint of any topology."""
    for fragment in local_fragments(engine):
        if fragment.kind not in kinds:
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
    engine.optimizer.set_applied_steps(applied_steps)
    publish(engine)
