"""One optimizer step: micro-batches in, loss and gradient norm out. DeepSpeed lives here.

In: a RunConfig, a Topology, the list of layers, and a judge who may refuse a step. Out: an Engine.
Always: the loss is the mean over all tokens of the global batch and is equal on every rank; a step whose loss or
gradient norm is not finite, or that the judge refuses, changes neither weights nor moments.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from model.kernels.attention import attention_backend
from model.kernels.norm import norm_backend
from model.layers import LanguageModel, LayerDefinition
from model.loss import cross_entropy_TB, mean_loss
from model.parallel import Sharding, logical_parameters
from pretrain.config import RunConfig
from pretrain.deepspeed_config import accumulation_steps, clips_itself, deepspeed_config
from pretrain.gradients import PartialGradientSum, clip_by_global_norm
from pretrain.optimizer import GatedAdamW, build_optimizer
from pretrain.stages import StagedModel
from pretrain.topology import ModelParallelUnit, Topology, data_group, device_of, tensor_group

Judge = Callable[[float, float], bool]
"""(loss, gradient norm) of a step with finite values -> may it reach the weights?"""


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one data-parallel rank."""

    tokens_BT: torch.Tensor
    labels_BT: torch.Tensor
    document_starts_BT: torch.Tensor | None = None
    marked_BT: torch.Tensor | None = None
    """evaluation only: targets whose loss is also told apart"""

    def payload(self) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the first layer takes."""
        return self.tokens_BT if self.document_starts_BT is None else (self.tokens_BT, self.document_starts_BT)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on ``device``."""

        def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return MicroBatch(
            self.tokens_BT.to(device, non_blocking=True),
            self.labels_BT.to(device, non_blocking=True),
            moved(self.document_starts_BT),
            moved(self.marked_BT),
        )


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gives."""

    loss: float
    grad_norm: float
    applied: bool


class MarkedLoss:
    """Sums over the marked targets of an evaluation, as they come."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        """summed loss, and number of targets"""

    def add(self, loss_TB: torch.Tensor, marked_BT: torch.Tensor) -> None:
        """Takes one micro-batch."""
        marked_TB = marked_BT.t()
        # fp32 counts no further than 16.7 million
        here = torch.stack([(loss_TB * marked_TB).sum(dtype=torch.float64), marked_TB.sum(dtype=torch.float64)])
        self.sums = here if self.sums is None else self.sums + here

    def take(self, device: torch.device) -> torch.Tensor:
        """The sums since the last call; zeros where nothing was marked here."""
        sums, self.sums = self.sums, None
        return torch.zeros(2, dtype=torch.float64, device=device) if sums is None else sums.detach()


@dataclass(frozen=True)
class Evaluation:
    """The loss of some micro-batches of all data-parallel ranks, without gradients."""

    loss: float
    """mean over all targets"""
    marked_loss: float
    """summed over the marked targets"""
    marked: float
    """how many were marked"""


class Engine:
    """The model, its optimizer and DeepSpeed's engine around both; subclasses drive one module or a pipeline."""

    def __init__(
        self, config: RunConfig, topology: Topology, module: nn.Module, sharding: Sharding, judge: Judge
    ) -> None:
        self.topology = topology
        self.device = device_of(topology)
        self.accumulation_steps = accumulation_steps(config, topology)
        self.micro_size = config.batch.micro_size
        self.zero_stage = config.parallel.zero_stage
        self._judge = judge
        self._clipping = config.optimizer.gradient_clipping if clips_itself(config) else None
        self._loss = math.nan
        self._grad_norm = math.nan
        self._sharding = sharding
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer: GatedAdamW = build_optimizer(config.optimizer, self.parameters, self._gate)
        self.deepspeed, *_ = deepspeed.initialize(
            model=module,
            optimizer=self.optimizer,
            config=deepspeed_config(config, topology),
            mpu=None if isinstance(module, StagedModel) else ModelParallelUnit(),
        )
        self.partial_gradients = (
            PartialGradientSum(self.parameters, tensor_group(), self.accumulation_steps)
            if topology.tensor_size > 1
            else None
        )

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches of the global batch."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        if len(micro_batches) != self.accumulation_steps:
            self._accumulate(len(micro_batches))
        self._loss = self._grad_norm = math.nan
        self.optimizer.begin_step()
        self._run_step([batch.to(self.device) for batch in micro_batches])
        if math.isnan(self._grad_norm):  # DeepSpeed saw an overflow and never asked the optimizer
            self._loss, self._grad_norm = self._global_loss(), math.inf
        return StepResult(self._loss, self._grad_norm, self.optimizer.applied)

    def _accumulate(self, micro_batches: int) -> None:
        """Takes ``micro_batches`` per optimizer step from here on, as a batch-size ramp asks."""
        self.accumulation_steps = micro_batches
        self.deepspeed.set_train_batch_size(micro_batches * self.micro_size * self.topology.data_size)
        if self.partial_gradients is not None:
            self.partial_gradients.accumulate(micro_batches)

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Evaluation:
        """The loss of the micro-batches of all data-parallel ranks, without gradients; a collective call."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is in use, in one line: topology, arithmetic, kernels, optimizer and collectives."""
        dtype = self.parameters[0].dtype
        wrapper = type(self.deepspeed.optimizer).__name__
        parts = [
            self.topology.describe(),
            f"ZeRO {self.zero_stage}",
            f"{str(dtype).removeprefix('torch.')} on {self.device}",
            f"attention: {attention_backend(self.device, dtype)}",
            f"norm: {norm_backend(self.device)}",
            f"optimizer: fused AdamW{'' if wrapper == 'GatedAdamW' else f' in {wrapper}'}",
            f"collectives: {dist.get_backend()}",
        ]
        if self.partial_gradients is not None:
            parts.append(f"{len(self.partial_gradients)} replicated parameters summed over the tensor-parallel group")
        return "; ".join(parts)

    def _run_step(self, micro_batches: Sequence[MicroBatch]) -> None:
        raise NotImplementedError

    def _global_loss(self) -> float:
        """The step's loss so far, averaged over the data-parallel ranks; a collective call."""
        raise NotImplementedError

    def _gate(self) -> bool:
        """Decides, between clipping and the update, whether this step may reach the weights."""
        self._loss = self._global_loss()
        if self._clipping is None:
            self._grad_norm = float(self.deepspeed.optimizer._global_grad_norm)
        else:
            self._grad_norm = clip_by_global_norm(self.parameters, self._clipping, self.topology, self._model_group())
        finite = math.isfinite(self._loss) and math.isfinite(self._grad_norm)
        return finite and self._judge(self._loss, self._grad_norm)

    def _model_group(self) -> dist.ProcessGroup | None:
        """All ranks that hold a part of one replica of the model."""
        raise NotImplementedError

    def _mean_over_data(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach().to(torch.float64, copy=True)
        if self.topology.data_size > 1:
            dist.all_reduce(value, group=data_group())
        return value / self.topology.data_size


class SequentialEngine(Engine):
    """The whole list of layers on every rank, or its tensor-parallel shard."""

    def __init__(
        self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], sharding: Sharding, judge: Judge
    ) -> None:
        super().__init__(config, topology, self._build(config, topology, layers), sharding, judge)
        self._loss_sum = torch.zeros((), device=self.device)

    def _build(self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition]) -> nn.Module:
        if config.parallel.zero_stage < 3:
            return LanguageModel(list(layers))
        settings = deepspeed_config(config, topology)
        unit = ModelParallelUnit()

        def build_partitioned(layer: LayerDefinition) -> nn.Module:
            module = layer.build()
            deepspeed.zero.Init(module, data_parallel_group=data_group(), config_dict_or_path=settings, mpu=unit)
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
            loss = mean_loss(self.deepspeed(batch.payload()), batch.labels_BT, self._sharding)
            self._loss_sum += loss.detach()
            self.deepspeed.backward(loss)
            self.deepspeed.step()

    def _global_loss(self) -> float:
        return float(self._mean_over_data(self._loss_sum / self.accumulation_steps))

    def _model_group(self) -> dist.ProcessGroup | None:
        return tensor_group() if self.topology.tensor_size > 1 else None

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Evaluation:
        self.deepspeed.eval()
        total = torch.zeros((), device=self.device)
        marked = MarkedLoss()
        for batch in micro_batches:
            here = batch.to(self.device)
            loss_TB = cross_entropy_TB(self.deepspeed(here.payload()), here.labels_BT, self._sharding)
            total += loss_TB.mean()
            if here.marked_BT is not None:
                marked.add(loss_TB, here.marked_BT)
        sums = self._mean_over_data(marked.take(self.device)) * self.topology.data_size
        return Evaluation(float(self._mean_over_data(total / len(micro_batches))), *sums.tolist())


class PipelinedEngine(Engine):
    """The list of layers cut into stages, run one-forward-one-backward by DeepSpeed's pipeline engine."""

    def __init__(
        self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], sharding: Sharding, judge: Judge
    ) -> None:
        marked = MarkedLoss()

        def loss(logits_TBV: torch.Tensor, targets: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            if isinstance(targets, torch.Tensor):
                return mean_loss(logits_TBV, targets, sharding)
            labels_BT, marked_BT = targets
            loss_TB = cross_entropy_TB(logits_TBV, labels_BT, sharding)
            marked.add(loss_TB, marked_BT)
            return loss_TB.mean()

        self._marked = marked
        self._shape: torch.Size | None = None
        super().__init__(config, topology, StagedModel(layers, topology, loss), sharding, judge)

    def _run_step(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.deepspeed.train_batch(self._batches(micro_batches))

    def _global_loss(self) -> float:
        return float(self.deepspeed._aggregate_total_loss())

    def _model_group(self) -> dist.ProcessGroup | None:
        group: dist.ProcessGroup = self.deepspeed.grid.get_model_parallel_group()
        return group

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Evaluation:
        loss = self.deepspeed.eval_batch(self._batches(micro_batches), num_micro_batches=len(micro_batches))
        sums = self._marked.take(self.device)  # known on the last stage only, equal on its tensor-parallel ranks
        dist.all_reduce(sums)
        return Evaluation(float(loss), *(sums / self.topology.tensor_size).tolist())

    def _batches(self, micro_batches: Sequence[MicroBatch]) -> Iterator[tuple[Any, Any]]:
        """What DeepSpeed reads; a new shape must be told, or stages go on exchanging tensors of the old one."""
        shape = micro_batches[0].tokens_BT.shape
        if self._shape not in (None, shape):
            self.deepspeed.reset_activation_shape()
        self._shape = shape
        marked = [(batch.labels_BT, batch.marked_BT) for batch in micro_batches]
        targets = [labels if marks is None else (labels, marks) for labels, marks in marked]
        return iter([(batch.payload(), target) for batch, target in zip(micro_batches, targets, strict=True)])


def build_engine(
    config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], sharding: Sharding, judge: Judge
) -> Engine:
    """The engine that the topology asks for."""
    kind = PipelinedEngine if topology.pipeline_size > 1 else SequentialEngine
    return kind(config, topology, layers, sharding, judge)
