"""Gradient norm and update-to-weight ratio of the parts of the model, seen where the optimizer works.

In: an Engine and a Recorder. Out: entries "gradient_norm" and "update_ratio" of each place of pretrain/telemetry/names.
Always: this rank looks at the elements that it alone writes into checkpoints, so that each element of the model counts
once, whatever the ZeRO stage; no copy of the weights is made.

Gradients are read in the optimizer's step, summed over the ranks and perhaps already clipped; pretrain/telemetry/
telemetry.py brings them to the norm before clipping. The update is what the step changed, whatever the optimizer does,
at up to ``SAMPLED`` evenly spaced elements of each parameter: the same ones on every topology.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.recorder import Recorder
from pretrain.checkpoint.layout import TensorLayout
from pretrain.checkpoint.state import LocalFragment, local_fragments
from pretrain.engines.engine import Engine
from pretrain.engines.gradients import square_sum
from pretrain.telemetry.names import GRADIENT_NORM, UPDATE_RATIO, places

SAMPLED = 4096
"""elements of each parameter whose change is looked at"""


class UpdateWatch:
    """Between ``begin`` and ``end`` lies one step of the engine."""

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine = engine
        self._recorder = recorder
        self._positions: dict[str, Tensor] = {}
        self._fragments: list[LocalFragment] = []
        self._before: list[Tensor] = []
        self._squares: dict[str, Tensor] = {}
        engine.optimizer.register_step_pre_hook(self._look_at_gradients)

    def begin(self) -> None:
        """Looks at the weights before the step."""
        own = (part for part in local_fragments(self._engine) if part.kind == "weight")
        self._fragments = [part for part in own if part.written.start < part.written.stop]
        self._before = [self._sample(fragment) for fragment in self._fragments]
        self._squares = {}

    def end(self) -> None:
        """Looks at the weights after the step, and records."""
        gradients, updates, weights = (defaultdict[str, list[Tensor]](list) for _ in range(3))
        for fragment, before in zip(self._fragments, self._before, strict=True):
            after = self._sample(fragment)
            for place in places(fragment.name):
                updates[place].append(after - before)
                weights[place].append(before)
                if fragment.name in self._squares:
                    gradients[place].append(self._squares[fragment.name])
        for place, squares in gradients.items():
            self._recorder.record(place.format(GRADIENT_NORM), torch.stack(squares).sum().sqrt(), "norm")
        for place, changes in updates.items():
            over = torch.cat(weights[place])
            self._recorder.record(place.format(UPDATE_RATIO), torch.cat(changes), "rms", over=over)
        self._fragments, self._before = [], []

    def _sample(self, fragment: LocalFragment) -> Tensor:
        positions = self._positions.get(fragment.name)
        if positions is None:
            found = sampled_positions(fragment.layout, fragment.tensor_rank)
            low, high = (fragment.start + bound for bound in (fragment.written.start, fragment.written.stop))
            found = found[(found >= low) & (found < high)] - fragment.start
            positions = torch.from_numpy(found).to(fragment.values.device)
            self._positions[fragment.name] = positions
        return fragment.values.index_select(0, positions)

    def _look_at_gradients(self, optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
        """Before each step of the optimizer, of which DeepSpeed takes one for each group or partition."""
        held = [tensor for group in optimizer.param_groups for tensor in group["params"] if tensor.grad is not None]
        for tensor in held if self._fragments else []:
            for fragment in self._fragments_in(tensor):
                if fragment.name not in self._squares:  # an optimizer inside another asks a second time
                    start = fragment.values.storage_offset() - tensor.storage_offset() + fragment.written.start
                    count = fragment.written.stop - fragment.written.start
                    gradient = tensor.grad.reshape(-1).narrow(0, start, count)
                    self._squares[fragment.name] = square_sum([gradient])

    def _fragments_in(self, holder: Tensor) -> Sequence[LocalFragment]:
        """The fragments that are views of ``holder``, a tensor that the optimizer updates."""
        address = holder.untyped_storage().data_ptr()
        first, last = holder.storage_offset(), holder.storage_offset() + holder.numel()
        return [
            fragment
            for fragment in self._fragments
            if fragment.values.untyped_storage().data_ptr() == address
            and first <= fragment.values.storage_offset() < last
        ]


def sampled_positions(layout: TensorLayout, tensor_rank: int) -> np.ndarray:
    """Where the sampled elements of a parameter lie in the flattened shard of ``tensor_rank``, in rising order.

    The spacing has no common factor with the length of a row, so that all columns are met.
    """
    spacing = max(1, math.ceil(math.prod(layout.shape) / SAMPLED))
    while math.gcd(spacing, layout.shape[-1]) > 1:
        spacing += 1
    coordinates = list(np.unravel_index(np.arange(0, math.prod(layout.shape), spacing), layout.shape))
    if layout.shard_dim is not None:
        along = coordinates[layout.shard_dim]
        size = layout.shard_shape[layout.shard_dim]
        mine = along // size == tensor_rank
        coordinates = [axis[mine] for axis in coordinates]
        coordinates[layout.shard_dim] = coordinates[layout.shard_dim] % size
    return np.sort(np.ravel_multi_index(coordinates, layout.shard_shape))
