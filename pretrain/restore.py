"""What a start goes on from: the run's newest checkpoint, the remote one, a branch's origin, or nothing.

In: a fresh engine and what else has state. Out: the step to go on from and the trainer's state.
Always: all ranks restore the same; what does not belong to this run is refused by name.
"""

import random

import numpy as np
import torch

from data.stream import TokenStream
from pretrain.checkpoint.branch import branch
from pretrain.checkpoint.remote import fetch_first
from pretrain.checkpoint.resume import check_same_model, load, newest_whole
from pretrain.config import RunConfig
from pretrain.engine import Engine
from pretrain.resilience.spikes import SpikeGuard
from pretrain.runfolder import announce
from pretrain.topology import Topology
from pretrain.trainer import TrainerState


def restore(
    config: RunConfig, topology: Topology, engine: Engine, stream: TokenStream, guard: SpikeGuard
) -> tuple[TrainerState, int]:
    """Fills ``engine`` and ``guard``; returns the trainer's state and the steps taken so far."""
    seed_everything(config.seed)
    fetch_first(config, topology)
    reader = newest_whole(config.run_folder / "checkpoints", topology)
    if reader is None:
        if config.checkpoint.branch_from is not None:
            announce(topology, branch(config, engine, topology))
        return TrainerState(), 0
    check_same_model(reader, config)
    saved = reader.manifest.state
    stream.check_state(saved["data"])
    load(engine, reader, reader.step)
    guard.restore(saved["spikes"])
    torch.set_rng_state(torch.frombuffer(bytearray(bytes.fromhex(saved["random"]["torch"])), dtype=torch.uint8))
    return TrainerState(**saved["trainer"]), reader.step


def seed_everything(seed: int) -> None:
    """Seeds the generators of this process; nothing in training draws from them today (dropout is 0)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
