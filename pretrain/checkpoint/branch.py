"""A new run from another run's checkpoint: other data, schedule or sequence length, step 0 of its own.

In: `checkpoint.branch_from` and a fresh engine. Out: its weights, and its Adam moments where they can follow.
Always: only for a run folder without checkpoints; what cannot fit is refused by name.
"""

from pathlib import Path

from common.errors import InputError
from pretrain.checkpoint.conversion import converted
from pretrain.checkpoint.layout import KINDS, MANIFEST
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import load, newest_whole
from pretrain.config import RunConfig
from pretrain.engine import Engine
from pretrain.topology import Topology


def branch(config: RunConfig, engine: Engine, topology: Topology) -> tuple[str, int]:
    """Loads the branch's origin; returns what was taken, in words, and how many updates the moments come from.

    Raises:
        InputError: no checkpoint there, a damaged one, or a model that cannot follow.
    """
    assert config.checkpoint.branch_from is not None
    reader = open_origin(Path(config.checkpoint.branch_from), topology)
    source = converted(reader, config.model)
    moments = config.checkpoint.branch_moments and source is reader and reader.step > 0
    applied_steps = reader.applied_steps if moments else 0
    load(engine, source, applied_steps, kinds=KINDS if moments else KINDS[:1])
    what = "weights and Adam moments" if moments else "weights"
    how = "" if source is reader else f", converted from {reader.config.model.attention}"
    return f"branching from {reader.folder}: {what}{how}", applied_steps


def open_origin(path: Path, topology: Topology) -> CheckpointReader:
    """The checkpoint at ``path``, or the newest whole one of the run at ``path``; every byte checked."""
    if (path / MANIFEST).exists():
        reader = CheckpointReader(path)
        reader.verify(part=topology.rank, parts=topology.world_size)
        return reader
    newest = newest_whole(path / "checkpoints", topology)
    if newest is None:
        raise InputError(f"checkpoint.branch_from: {path} is neither a checkpoint nor a run folder with one")
    return newest
