"""What the trainer's layers say of given tokens on split ranks: that of one plain model in one process."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from model.layers import LanguageModel, build_layers
from model.parallel import Unsharded, logical_parameters
from pretrain.checkpoint.reader import CheckpointReader
from pretrain.config import RunConfig
from pretrain.engines.connection import connect
from pretrain.scoring import Scorer, scoring_config
from pretrain.topology import topology_from_environment
from scripts.hub.checkpoint_file import write_checkpoint
from scripts.hub.layout import parameter_shapes
from tests.parallel.training import TINY
from tests.scripts.conftest import noisy_value
from tests.world import run_world

LENGTH = 37
"""no multiple of what two context- and two tensor-parallel ranks need"""
PLACES = (0, 5, 18, 19, 36)
KINDS = ("standard", "diff", "shared_diff", "diff_v2")
TOKENS = torch.randint(96, (2, LENGTH + 1), generator=torch.Generator().manual_seed(1))
STARTS = torch.tensor([[0] * 5 + [5] * 15 + [20] * 17, [0] * 30 + [30] + [31] * 6])


def a_run_of(kind: str, root: Path) -> Path:
    """The checkpoint of a model whose heads and layers differ."""
    config = replace(TINY, model=replace(TINY.model, attention=kind, num_kv_heads=2))
    shapes = parameter_shapes(config.model)
    write_checkpoint(root / kind, config, shapes, lambda name: noisy_value(name, shapes[name], config.model), {})
    return next((root / kind).glob("step_*"))


def scores(folders: list[Path], tensor: int) -> list[tuple[Tensor, ...]]:
    """On a rank, for each checkpoint."""
    found = []
    connected = False
    for folder in folders:
        reader = CheckpointReader(folder)
        config = scoring_config(reader.config, tensor)
        topology = topology_from_environment(config.parallel)
        if not connected:
            connect(topology)
            connected = True
        scorer = Scorer(config, topology, reader)
        found.append(
            (scorer.losses(TOKENS), scorer.losses(TOKENS, STARTS), scorer.logits(TOKENS[0, :-1].tolist(), PLACES))
        )
    return found


def plain_logits(reader: CheckpointReader, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of the whole model."""
    config: RunConfig = reader.config
    model = LanguageModel(build_layers(config.model, Unsharded(), seed=0))
    with torch.no_grad():
        for name, parameter in logical_parameters(model).items():
            parameter.copy_(reader.read(name))
        return model(tokens_BT).transpose(0, 1)


def test_losses_and_logits_of_split_ranks_are_those_of_a_plain_model(tmp_path: Path) -> None:
    """Weights over two ranks, and tokens over two."""
    folders = [a_run_of(kind, tmp_path) for kind in KINDS]
    by_rank = run_world(4, scores, folders, 2)
    for number, folder in enumerate(folders):
        logits = plain_logits(CheckpointReader(folder), TOKENS[:, :-1])
        losses = F.cross_entropy(logits.transpose(1, 2), TOKENS[:, 1:], reduction="none")
        inside = torch.empty(2, LENGTH)
        for row, starts in enumerate(STARTS):
            for first in starts.unique().tolist():
                last = int((starts == first).nonzero().max()) + 1
                alone = plain_logits(CheckpointReader(folder), TOKENS[row : row + 1, first:last])[0]
                inside[row, first:last] = F.cross_entropy(alone, TOKENS[row, first + 1 : last + 1], reduction="none")
        for rank in by_rank:
            for found, expected in zip(rank[number], (losses, inside, logits[0, list(PLACES)]), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
