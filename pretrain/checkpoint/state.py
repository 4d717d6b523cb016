"""What a rank must save and load: views into the optimizer's fp32 weights and moments, without any gather.

In: an Engine. Out: LocalFragments, whose values are writable views; after loading, ``Engine.publish_weights`` brings
the weights from the optimizer to the model.
Always: the views together are this rank's part of the training state, whatever the ZeRO stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from model.parallel import info_of
from pretrain.checkpoint.layout import WEIGHT, TensorLayout
from pretrain.engines.engine import Engine


@dataclass(frozen=True)
class LocalFragment:
    """A contiguous range of this rank's shard of one parameter or moment."""

    name: str
    kind: str
    """"weight", or the name of a moment"""
    layout: TensorLayout
    tensor_rank: int
    """which shard; 0 for a replicated parameter"""
    start: int
    """where ``values`` begin in the flattened shard"""
    values: torch.Tensor
    """flat fp32 view into the training state"""
    written: slice
    """the part of ``values`` that this rank, and no other, writes"""


def local_fragments(engine: Engine) -> Iterator[LocalFragment]:
    """Every range that this rank holds; creates the moments where no step has created them yet."""
    engine.create_optimizer_state()
    for parameter in engine.parameters:
        moments = engine.optimizer_kind.group_of(info_of(parameter)).moments
        for kind in (None, *(moment.name for moment in moments)):
            view = engine.state_view(parameter, kind)
            if view is not None:
                yield _describe(engine, parameter, kind or WEIGHT, view.start, view.values)


def _describe(engine: Engine, parameter: nn.Parameter, kind: str, start: int, view: torch.Tensor) -> LocalFragment:
    info = parameter.info  # type: ignore[attr-defined]
    topology = engine.topology
    layout = TensorLayout(tuple(info.full_shape), info.shard_dim, topology.tensor_size)
    replica = info.shard_dim is None and topology.tensor_rank != 0
    if replica or engine.is_tied_copy(parameter):
        written = slice(0, 0)
    else:  # ranks that hold the same write a share each
        place, copies = engine.copies_of_state
        written = slice(*(view.numel() * rank // copies for rank in (place, place + 1)))
    shard = 0 if info.shard_dim is None else topology.tensor_rank
    return LocalFragment(info.name, kind, layout, shard, start, view, written)
