"""The list of layers, laid out for DeepSpeed: one plain module, or the pipeline's stages.

In: layer definitions (model/layers.py) and a Topology. Out: a module that the engine drives.
Always: both hold the same layers with the same logical parameter names; every stage holds at least one block.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from common.errors import InputError
from model.layers import LayerDefinition
from pretrain.topology import Topology


def split_into_stages(layers: Sequence[LayerDefinition], stages: int) -> list[int]:
    """The first layer of every stage and the number of layers, as in ``[0, 4, 8]`` for two stages.

    Among all contiguous splits that leave a block on every stage, the one whose most expensive stage is cheapest; ties
    go to the split with the earlier cuts. Dynamic programming over (stages, cut).

    Raises:
        InputError: fewer blocks than stages.
    """
    blocks = [layer.name.startswith("blocks.") for layer in layers]
    if sum(blocks) < stages:
        raise InputError(
            f"parallel.pipeline: every stage needs a block, and {sum(blocks)} blocks (model.num_layers) "
            f"cannot fill {stages} stages; at most {sum(blocks)} fit"
        )

    @functools.cache
    def best(start: int, remaining: int) -> tuple[float, tuple[int, ...]]:
        if remaining == 1:
            valid = any(blocks[start:])
            return (sum(layer.cost for layer in layers[start:]) if valid else float("inf")), (len(layers),)
        candidates = []
        for stop in range(start + 1, len(layers)):
            if any(blocks[start:stop]):
                cost, cuts = best(stop, remaining - 1)
                candidates.append((max(sum(layer.cost for layer in layers[start:stop]), cost), (stop, *cuts)))
        return min(candidates, default=(float("inf"), ()))

    return [0, *best(0, stages)[1]]


class StagedModel(PipelineModule):
    """DeepSpeed's pipeline module with our balanced split; builds only this rank's layers."""

    def __init__(
        self, layers: Sequence[LayerDefinition], topology: Topology, loss: Callable[..., torch.Tensor]
    ) -> None:
        self._parts = split_into_stages(layers, topology.pipeline_size)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            super().__init__(
                [_layer_spec(layer, layers) for layer in layers],
                topology=PipeModelDataParallelTopology(
                    num_pp=topology.pipeline_size, num_mp=topology.tensor_size, num_dp=topology.data_size
                ),
                loss_fn=loss,
            )

    def _partition_layers(self, method: str = "uniform") -> None:
        self.parts = self._parts
        self._set_bounds(start=self.parts[self.stage_id], stop=self.parts[self.stage_id + 1])


def _layer_spec(layer: LayerDefinition, layers: Sequence[LayerDefinition]) -> LayerSpec:
    owners = {other.tied_to for other in layers if other.tied_to}
    if layer.tied_to is not None:
        owner = next(other for other in layers if other.name == layer.tied_to)
        return _TiedDefinition(owner, forward_fn=layer.forward)
    if layer.name in owners:
        return _TiedDefinition(layer, forward_fn=None)
    return _Definition(layer)


class _Definition(LayerSpec):
    """DeepSpeed's description of one layer, which builds ours."""

    def __init__(self, layer: LayerDefinition) -> None:
        super().__init__(nn.Module)
        self._layer = layer

    def build(self, log: bool = False) -> nn.Module:
        return self._layer.build()


class _TiedDefinition(TiedLayerSpec):
    """A layer whose weight another stage uses as well."""

    def __init__(self, layer: LayerDefinition, forward_fn: Callable[..., Any] | None) -> None:
        super().__init__(layer.name, nn.Module, forward_fn=forward_fn, tied_weight_attr=["weight"])
        self._layer = layer

    def build(self, log: bool = False) -> nn.Module:
        return self._layer.build()
