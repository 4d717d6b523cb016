"""The whole list of layers on every rank, or its tensor-parallel shard, driven micro-batch by micro-batch.

In: what an Engine takes. Out: an Engine for one pipeline stage. Always: under ZeRO 3 never more than one whole layer is
in memory while the model is built.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from model.layers import LanguageModel, LayerDefinition
from model.loss import cross_entropy_TB, mean_loss
from model.parallel import logical_parameters
from pretrain.config import RunConfig
from pretrain.engines.connection import ModelParallelUnit, copies_group, tensor_group
from pretrain.engines.deepspeed_config import deepspeed_config
from pretrain.engines.engine import Engine, Judge
from pretrain.engines.evaluation import Evaluation, MarkedLoss
from pretrain.engines.micro_batch import MicroBatch
from pretrain.topology import Topology


class SequentialEngine(Engine):
    """The whole list of layers on every rank, or its tensor-parallel shard."""

    def __init__(self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], judge: Judge) -> None:
        super().__init__(config, topology, self._build(config, topology, layers), judge)
        self._loss_sum = torch.zeros((), device=self.device)

    def _build(self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition]) -> nn.Module:
        if config.parallel.zero_stage < 3:
            return LanguageModel(list(layers))
        settings = deepspeed_config(config, topology)
        unit = ModelParallelUnit()

        def build_partitioned(layer: LayerDefinition) -> nn.Module:
            module = layer.build()
            deepspeed.zero.Init(module, data_parallel_group=copies_group(), config_dict_or_path=settings, mpu=unit)
            return module

        # Never more than one whole layer in memory.
        partitioned = [replace(layer, build=partial(build_partitioned, layer)) for layer in layers]
        model = LanguageModel(partitioned)
        if config.model.tie_embeddings:  # the head reads it outside the embedding's own forward pass
            deepspeed.zero.register_external_parameter(model, logical_parameters(model)["embedding.weight"])
        return model

    def _run_step(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.deepspeed.train()
        self._loss_sum.zero_()
        for number, batch in enumerate(micro_batches, start=1):
            # DeepSpeed's own count of micro-batches goes on from step to step and knows one accumulation only.
            self.deepspeed.set_gradient_accumulation_boundary(number == len(micro_batches))
            loss = self.deepspeed(batch.payload(), finish=mean_loss(batch.labels_BT))
            self._loss_sum += loss.detach()
            self.deepspeed.backward(loss)
            self.deepspeed.step()

    def _global_loss(self) -> float:
        return float(self._mean_over_copies(self._loss_here()))

    def _loss_here(self) -> torch.Tensor:
        return self._loss_sum / self.accumulation_steps

    def _model_group(self) -> dist.ProcessGroup | None:
        return tensor_group() if self.topology.tensor_size > 1 else None

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Evaluation:
        self.deepspeed.eval()
        total = torch.zeros((), device=self.device)
        marked = MarkedLoss()
        for batch in micro_batches:
            here = batch.to(self.device)
            loss_TB = self.deepspeed(here.payload(), finish=cross_entropy_TB(here.labels_BT))
            total += loss_TB.mean()
            if here.marked_BT is not None:
                marked.add(loss_TB, here.marked_BT)
        sums = self._mean_over_copies(marked.take(self.device)) * self.topology.copies
        return Evaluation(float(self._mean_over_copies(total / len(micro_batches))), *sums.tolist())
