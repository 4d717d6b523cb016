"""What the trainer put into a checkpoint beside weights and moments, read back and found to be what it says.

In: an opened checkpoint. Out: nothing, or an InputError, so that an older checkpoint can be tried. Always: imported
weights, of step 0 and without such a state, begin a run of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from common.errors import InputError
from common.typed import check_complete, check_section
from pretrain.checkpoint.lineage import Lineage, lineage_of
from pretrain.checkpoint.reader import CheckpointReader


@dataclass(frozen=True)
class StageState:
    """One stretch of the order, as data/stream.py describes it."""

    first: int
    sequence_length: int
    datasets: list[str]
    shares: list[int]


@dataclass(frozen=True)
class DataState:
    """The position in the data, as data/stream.py writes it."""

    algorithm: int
    consumed: int
    seed: int
    skip: list[list[int]]
    shuffle_window: int
    stages: list[StageState]
    shuffle_by_block: bool = False
    block_bytes: int = 0
    """of blocks of a remote store, where the order depends on it; older checkpoints do not say these two"""
    tokenizer: str | None = None
    """its fingerprint; older checkpoints do not say it"""


@dataclass(frozen=True)
class CountedState:
    """What pretrain/trainer.py counts."""

    tokens: int
    best_validation_loss: float | None = None
    applied_steps: int = 0


@dataclass(frozen=True)
class RandomState:
    """Torch's generator, in hexadecimal."""

    torch: str


@dataclass(frozen=True)
class SavedState:
    """Everything that the trainer saves beside the parameters."""

    data: DataState
    trainer: CountedState
    spikes: dict[str, Any]
    """pretrain/resilience/spikes.py knows what it reads"""
    random: RandomState
    lineage: Lineage = field(default_factory=Lineage)
    """where the weights come from; older checkpoints do not say it"""


def is_imported(reader: CheckpointReader) -> bool:
    """Whether these are weights that no run has trained on yet."""
    return reader.step == 0 and "data" not in reader.manifest.state


def trainer_state(reader: CheckpointReader) -> Any:
    """What the trainer counted, as JSON; a best loss that is not finite, which runs once kept, is none."""
    saved = reader.manifest.state.get("trainer")
    if not isinstance(saved, Mapping):
        return saved
    best = saved.get("best_validation_loss")
    is_kept = not isinstance(best, float) or math.isfinite(best)
    return saved if is_kept else {**saved, "best_validation_loss": None}


def check_resumable(reader: CheckpointReader) -> None:
    """Raises InputError where a run cannot go on from this checkpoint, whatever the run is."""
    _ = reader.config
    lineage_of(reader)
    if is_imported(reader):
        return
    where, state = f"{reader.folder}: the trainer's state", reader.manifest.state
    if "trainer" in state:
        state = state | {"trainer": trainer_state(reader)}
    check_section(SavedState, state, where)
    for key, section in (("", SavedState), ("data", DataState), ("trainer", CountedState), ("random", RandomState)):
        check_complete(section, state[key] if key else state, f"{where}{f': {key}' if key else ''}")
    for stage in state["data"]["stages"]:
        check_complete(StageState, stage, f"{where}: data.stages")
    counts = [state["data"]["consumed"], state["trainer"]["tokens"], reader.applied_steps]
    if min(counts) < 0 or any(len(entry) != 2 or not 0 <= entry[0] <= entry[1] for entry in state["data"]["skip"]):
        raise InputError(f"{where}: counts below 0, or a skipped range that ends before it begins")
    try:
        generator = bytes.fromhex(state["random"]["torch"])
    except ValueError:
        generator = b""
    if len(generator) != torch.get_rng_state().numel():
        raise InputError(f"{where}: random.torch is not the state of a generator")
