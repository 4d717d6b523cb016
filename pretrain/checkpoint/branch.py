"""A new run from another run's checkpoint: other data, schedule or sequence length, step 0 of its own.

In: `checkpoint.branch_from` and a fresh engine. Out: its weights, and its moments where they can follow.
Always: only for a run folder without checkpoints; what cannot fit is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, named
from pretrain.checkpoint.agreement import told_by_main
from pretrain.checkpoint.conversion import converted
from pretrain.checkpoint.layout import MANIFEST, checkpoints_of
from pretrain.checkpoint.lineage import Lineage, descended
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.checkpoint.resume import load, newest_whole, whole
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine
from pretrain.topology import Topology


@dataclass(frozen=True)
class Taken:
    """What a branch has of its origin."""

    words: str
    applied_steps: int
    """updates that the moments come from"""
    lineage: Lineage


def branch(config: RunConfig, engine: Engine, topology: Topology, tokenizer: Mapping[str, str]) -> Taken:
    """Loads the branch's origin; returns what was taken.

    Args:
        tokenizer: of the data to come.

    Raises:
        InputError: no checkpoint there, a damaged one, one of another tokenizer, or a model that cannot follow.
    """
    assert config.checkpoint.branch_from is not None
    reader = open_origin(Path(config.checkpoint.branch_from), topology)
    _check_tokenizer(reader, tokenizer)
    source = converted(reader, config.model)
    theirs, ours = reader.config.optimizer.kind, config.optimizer.kind
    moments = config.checkpoint.branch_moments and source is reader and reader.step > 0 and theirs == ours
    applied_steps = reader.applied_steps if moments else 0
    load(engine, source, applied_steps, moments)
    what = "weights and moments" if moments else "weights"
    how = "" if source is reader else f", converted from {reader.config.model.attention}"
    if config.checkpoint.branch_moments and theirs != ours:
        how += f", without the moments of {theirs}, which are not {ours}'s"
    return Taken(f"branching from {reader.folder}: {what}{how}", applied_steps, descended(reader))


def open_origin(path: Path, topology: Topology) -> CheckpointReader:
    """The checkpoint at ``path``, or the newest whole one of the run at ``path``; every byte checked."""
    with named("checkpoint.branch_from"):
        if told_by_main(topology, lambda: (path / MANIFEST).exists()):
            return whole(path, topology)
        newest = newest_whole(checkpoints_of(path), topology)
    if newest is None:
        raise InputError(f"checkpoint.branch_from: {path} is neither a checkpoint nor a run folder with one")
    return newest


def _check_tokenizer(reader: CheckpointReader, tokenizer: Mapping[str, str]) -> None:
    """Ids of another tokenizer mean other texts. Imported and older checkpoints do not say what theirs was."""
    theirs = reader.manifest.state.get("data", {}).get("tokenizer")
    if theirs is not None and theirs != tokenizer["fingerprint"]:
        raise InputError(
            f"checkpoint.branch_from: {reader.folder} was trained on tokens of another tokenizer ({theirs[:12]}) than "
            f"data.train has ({tokenizer.get('name')}, {tokenizer['fingerprint'][:12]}); prepare the text with the "
            "tokenizer of the origin"
        )
