"""The list of layers, laid out for DeepSpeed: one plain module, or the pipeline's stages.

In: layer definitions (model/layers.py) and a Topology. Out: a module that the engine drives.
Always: both hold the same layers with the same logical parameter names; every stage holds at least one block.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from model.layers import LayerDefinition
from pretrain.engines.compat import CutPipelineModule
from pretrain.stage_split import split_into_stages
from pretrain.topology import Topology


class StagedModel(CutPipelineModule):
    """DeepSpeed's pipeline module with our balanced split; builds only this rank's layers."""

    def __init__(
        self, layers: Sequence[LayerDefinition], topology: Topology, loss: Callable[..., torch.Tensor]
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            super().__init__(
                [_layer_spec(layer, layers) for layer in layers],
                split_into_stages(layers, topology.pipeline_size),
                topology=PipeModelDataParallelTopology(
                    num_pp=topology.pipeline_size, num_mp=topology.tensor_size, num_dp=topology.data_size
                ),
                loss_fn=loss,
            )


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
