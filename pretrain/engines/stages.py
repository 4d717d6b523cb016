"""The list of layers, laid out for DeepSpeed: one plain module, or the pipeline's stages.

In: layer definitions (model/layers.py) and a Topology. Out: a module that the engine drives.
Always: both hold the same layers with the same logical parameter names; every stage holds at least one block.
"""

import contextlib
import io
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from deepspeed.pipe import LayerSpec, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import nn

from model.block import context_of, kernels_of
from model.config import ModelConfig
from model.layers import LayerDefinition
from model.layout import Layout
from model.payload import Payload, Tokens
from pretrain.engines.compat import CutPipelineModule
from pretrain.engines.micro_batch import MicroBatch
from pretrain.stage_split import split_into_stages
from pretrain.topology import Topology


class StagedModel(CutPipelineModule):
    """DeepSpeed's pipeline module with our balanced split; builds only this rank's layers.

    The last stage's forward pass ends in the loss, so that logits need not leave the head.

    Args:
        loss: (head, its payload, micro-batch) to the mean loss; ``head(payload, finish=...)`` runs the head.
    """

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[LayerDefinition],
        topology: Topology,
        loss: Callable[[Callable[..., torch.Tensor], Payload, MicroBatch], torch.Tensor],
    ) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings
            super().__init__(
                [_layer_spec(layer, layers) for layer in layers],
                split_into_stages(layers, topology.pipeline_size),
                topology=PipeModelDataParallelTopology(
                    num_pp=topology.pipeline_size, num_mp=topology.tensor_size, num_dp=topology.copies
                ),
            )
        self._finish = partial(loss, self.take_last()) if topology.stage == topology.pipeline_size - 1 else None
        self._config = config
        self._kernels, self._context = kernels_of(self), context_of(self)
        self._coming: deque[MicroBatch] = deque()

    def expect(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Tells what the next forward passes read, in their order; a stage passes on nothing but activations."""
        self._coming = deque(micro_batches)

    def forward(self, arrived: torch.Tensor) -> torch.Tensor:
        """This stage's layers on tokens_BT or on the activations that the stage before it sent; at last, the loss."""
        batch = self._coming.popleft()
        entering: Tokens | Payload = arrived, batch.documents
        if self.stage_id > 0:
            entering = Payload(arrived, self._layout(batch, arrived))
        leaving = super().forward(entering)
        return leaving.x_TBD if self._finish is None else self._finish(leaving, batch)

    def _layout(self, batch: MicroBatch, like: torch.Tensor) -> Layout:
        length = batch.tokens_BT.shape[1]
        return Layout.of(self._config, length, batch.documents, like, self._kernels, self._context)


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
