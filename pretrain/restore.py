"""What a start goes on from: the run's newest checkpoint, the remote one, a branch's origin, or nothing.

In: a fresh engine and what else has state. Out: the step to go on from, the trainer's state, the settings from there.
Always: all ranks restore the same; what does not belong to this run is refused by name.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from common.errors import InputError
from data.stream import TokenStream
from pretrain.checkpoint.branch import branch
from pretrain.checkpoint.layout import checkpoints_of
from pretrain.checkpoint.lineage import Lineage, descended, lineage_of
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import load, newest_whole
from pretrain.checkpoint.saved_state import check_resumable, is_imported, trainer_state
from pretrain.checks import check_batch
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine
from pretrain.history import check_same_model, check_same_optimizer, describe_changes, with_past
from pretrain.resilience.spikes import SpikeGuard
from pretrain.runfolder import announce
from pretrain.topology import Topology
from pretrain.trainer import TrainerState


@dataclass(frozen=True)
class Start:
    """Where training goes on."""

    config: RunConfig
    """this start's settings, with the batch sizes of the steps that lie behind"""
    state: TrainerState
    step: int
    """steps taken so far"""
    lineage: Lineage = field(default_factory=Lineage)
    """what the checkpoint says of where its weights come from"""


def find_checkpoint(config: RunConfig, topology: Topology) -> CheckpointReader | None:
    """The checkpoint that the run goes on from, every byte checked; None for a run that has none yet.

    Raises:
        InputError: there are checkpoints, and none of them can be gone on from.
    """
    return newest_whole(checkpoints_of(config.run_folder), topology, check_resumable)


def restore(
    config: RunConfig,
    topology: Topology,
    engine: Engine,
    stream: TokenStream,
    guard: SpikeGuard,
    reader: CheckpointReader | None,
) -> Start:
    """Fills ``engine`` and ``guard`` from ``reader``; tells what is another setting than before."""
    seed_everything(config.seed)
    if reader is None:
        stream.check_stage_starts(config.batch.schedule, 0, config.train.steps)
        if config.checkpoint.branch_from is None:
            return Start(config, TrainerState(), 0)
        taken = branch(config, engine, topology, stream.tokenizer)
        announce(topology, taken.words)
        return Start(config, TrainerState(applied_steps=taken.applied_steps), 0, taken.lineage)
    before = reader.config
    check_same_model(before, config, str(reader.folder))
    if is_imported(reader):
        load(engine, reader, 0, moments=False)
        announce(topology, f"beginning with the weights in {reader.folder}")
        return Start(config, TrainerState(), 0, descended(reader))
    check_same_optimizer(before, config, str(reader.folder))
    saved = reader.manifest.state
    stream.check_state(saved["data"])
    resumed = with_past(before, config, reader.step)
    _check_position(resumed, reader)
    check_batch(resumed, topology, reader.step)  # fewer steps may lie behind than the newest folder's name said
    stream.check_stage_starts(resumed.batch.schedule, reader.step, resumed.train.steps)
    load(engine, reader, reader.applied_steps)
    _restore_guard(guard, saved["spikes"], reader)
    torch.set_rng_state(torch.frombuffer(bytearray(bytes.fromhex(saved["random"]["torch"])), dtype=torch.uint8))
    for line in describe_changes(before, config, reader.step):
        announce(topology, line)
    state = TrainerState(**{**trainer_state(reader), "applied_steps": reader.applied_steps})
    return Start(resumed, state, reader.step, lineage_of(reader))


def _restore_guard(guard: SpikeGuard, saved: dict[str, Any], reader: CheckpointReader) -> None:
    try:
        guard.restore(saved)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{reader.folder}: the state of the spike rule cannot be read: {error!r}") from None


def _check_position(config: RunConfig, reader: CheckpointReader) -> None:
    """The samples that the checkpoint says were trained are those that its batch sizes make."""
    saved, computed = reader.manifest.state["data"]["consumed"], config.batch.schedule.first_sample(reader.step)
    if saved != computed:
        raise InputError(
            f"{reader.folder}: {saved} samples are said to be trained, but its batch sizes make {computed} in "
            f"{reader.step} steps; its manifest was changed by hand or by another program"
        )


def seed_everything(seed: int) -> None:
    """Seeds the generators of this process; nothing in training draws from them today (dropout is 0)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
