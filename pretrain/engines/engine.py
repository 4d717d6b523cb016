"""One optimizer step: micro-batches in, loss and gradient norm out.

In: a RunConfig, a Topology, the list of layers, and a judge who may refuse a step. Out: an Engine.
Always: the loss is the mean over all tokens of the global batch and is equal on every rank; a step whose loss or
gradient norm is not finite, or that the judge refuses, changes neither weights nor moments.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from model.block import kernels_of
from model.parallel import info_of
from pretrain.config import RunConfig
from pretrain.engines import compat
from pretrain.engines.connection import ModelParallelUnit, copies_group, partition_groups, tensor_group
from pretrain.engines.deepspeed_config import accumulation_steps, clips_itself, deepspeed_config, exchanges_itself
from pretrain.engines.evaluation import Evaluation
from pretrain.engines.exchange import BucketExchange, DeepSpeedExchange, ReplicaExchange
from pretrain.engines.gradients import PartialGradientSum
from pretrain.engines.micro_batch import MicroBatch
from pretrain.engines.stages import StagedModel
from pretrain.engines.training_state import StateView, TrainingState
from pretrain.engines.zero.build import bucketed_engine
from pretrain.optimizers.base import Place, Surroundings
from pretrain.optimizers.gate import Gate
from pretrain.optimizers.registry import optimizer_kind
from pretrain.topology import Topology, device_of

Judge = Callable[[float, float], bool]
"""Takes loss and gradient norm of a step, both finite; returns whether the step may reach the weights."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step gives."""

    loss: float
    grad_norm: float
    applied: bool


class Engine(ABC):
    """The model, its optimizer and DeepSpeed's engine around both; subclasses drive one module or a pipeline."""

    def __init__(self, config: RunConfig, topology: Topology, module: nn.Module, judge: Judge) -> None:
        self.topology = topology
        self.device = device_of(topology)
        self.accumulation_steps = accumulation_steps(config, topology)
        self.micro_size = config.batch.micro_size
        self.zero_stage = config.parallel.zero_stage
        self._judge = judge
        self._loss = math.nan
        self._grad_norm = math.nan
        self.module = module
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.gate = Gate(self._decide)
        self.optimizer_kind = optimizer_kind(config.optimizer)
        groups = partition_groups(topology, config.parallel.partition_ranks)
        cut_among = groups.sharing.size() if self.zero_stage > 0 else 1
        self.copies_of_state = (topology.copy // cut_among, topology.copies // cut_among)
        around = Surroundings(
            self.gate,
            self.places,
            data_group=groups.sharing if cut_among > 1 else None,
            tensor_group=tensor_group() if topology.tensor_size > 1 else None,
        )
        self.optimizer = self.optimizer_kind.build(config.optimizer, self.parameters, around)
        if exchanges_itself(config):
            self.deepspeed = bucketed_engine(
                config, topology, module, self.parameters, self.optimizer, groups, self.gate
            )
            self.exchange: ReplicaExchange = BucketExchange(
                self.deepspeed.optimizer, topology, self.device, self._loss_here
            )
        else:
            self.deepspeed, *_ = deepspeed.initialize(
                model=module,
                optimizer=self.optimizer,
                config=deepspeed_config(config, topology),
                mpu=None if isinstance(module, StagedModel) else ModelParallelUnit(),
            )
            self.exchange = DeepSpeedExchange(
                self.deepspeed.optimizer,
                self.parameters,
                topology,
                clipping=config.optimizer.gradient_clipping if clips_itself(config) else None,
                partial_gradients=(
                    PartialGradientSum(self.parameters, tensor_group()) if topology.tensor_size > 1 else None
                ),
                global_loss=self._global_loss,
                model_group=self._model_group,
            )
        self._state = TrainingState(
            self.zero_stage,
            self.parameters,
            self.optimizer_kind,
            self.optimizer,
            self.deepspeed.optimizer,
            topology.copy,
        )

    def places(self) -> list[Place]:
        """Where this rank keeps its fp32 weights, for ZeRO 0 to 2."""
        return self._state.places()

    def train_step(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepResult:
        """One optimizer step over this rank's micro-batches of the global batch."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        if len(micro_batches) != self.accumulation_steps:
            self._accumulate(len(micro_batches))
        self._loss = self._grad_norm = math.nan
        self.gate.begin_step()
        self.exchange.begin_step(len(micro_batches))
        self._run_step([batch.to(self.device) for batch in micro_batches])
        if math.isnan(self._grad_norm):  # DeepSpeed saw an overflow and never asked the optimizer
            self._loss, self._grad_norm = self._global_loss(), math.inf
        return StepResult(self._loss, self._grad_norm, self.gate.was_open)

    def _accumulate(self, micro_batches: int) -> None:
        """Takes ``micro_batches`` per optimizer step from here on, as a batch-size ramp asks."""
        self.accumulation_steps = micro_batches
        self.deepspeed.set_train_batch_size(micro_batches * self.micro_size * self.topology.copies)

    @abstractmethod
    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> Evaluation:
        """The loss of the micro-batches of all ranks, without gradients; a collective call."""

    def create_optimizer_state(self) -> None:
        """Creates the optimizer's state where no step has created it yet, so that ``state_view`` finds it."""
        self._state.create()

    def state_view(self, parameter: nn.Parameter, state: str | None = None) -> StateView | None:
        """This rank's range of ``parameter``'s fp32 weights, or of its state tensor ``state``; None: it has none."""
        return self._state.view(parameter, state)

    def publish_weights(self) -> None:
        """Brings weights that were written into views to the model; a collective call."""
        self._state.publish_weights()

    def settle(self) -> None:
        """Waits until the weights of the last step have returned; forward passes wait for themselves."""
        self.exchange.settle()

    def take_waits(self) -> float:
        """Seconds since the last call for which forward passes in training waited for weights; waits for the device."""
        return self.exchange.take_waits()

    def is_tied_copy(self, parameter: nn.Parameter) -> bool:
        """Whether another rank's ``parameter`` is the one that counts, of a tied layer on two pipeline stages."""
        return compat.is_tied_copy(parameter)

    def describe(self) -> str:
        """What is in use, in one line: topology, arithmetic, kernels, optimizer and collectives."""
        dtype, kernels = self.parameters[0].dtype, kernels_of(self.module)
        wrapper = self.deepspeed.optimizer
        within = "" if wrapper is self.optimizer else f" in {type(wrapper).__name__}"
        parts = [
            self.topology.describe(),
            f"ZeRO {self.zero_stage}",
            f"{str(dtype).removeprefix('torch.')} on {self.device}",
            f"attention: {kernels.attention.title}",
            f"kernels: {kernels.rowwise.describe()}",
            f"optimizer: {self.optimizer_kind.title}{within}",
            f"collectives: {dist.get_backend()}",
        ]
        if self.topology.tensor_size > 1:
            partial = sum(info_of(parameter).partial_gradient for parameter in self.parameters)
            parts.append(f"{partial} replicated parameters summed over the tensor-parallel group")
        return "; ".join([*parts, *kernels.notes])

    @abstractmethod
    def _run_step(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Forward and backward passes of all micro-batches, and the optimizer's step."""

    @abstractmethod
    def _global_loss(self) -> float:
        """The step's loss so far, averaged over the ranks with the same weights; a collective call."""

    def _decide(self) -> bool:
        """Decides, between clipping and the update, whether this step may reach the weights."""
        self._loss, self._grad_norm = self.exchange.loss_and_norm()
        finite = math.isfinite(self._loss) and math.isfinite(self._grad_norm)
        return finite and self._judge(self._loss, self._grad_norm)

    @abstractmethod
    def _loss_here(self) -> torch.Tensor | None:
        """The step's mean loss on this rank's tokens, equal on its tensor-parallel ranks; None: not known here."""

    @abstractmethod
    def _model_group(self) -> dist.ProcessGroup | None:
        """All ranks that hold a part of one replica of the model."""

    def _mean_over_copies(self, value: torch.Tensor) -> torch.Tensor:
        value = value.detach().to(torch.float64, copy=True)
        if self.topology.copies > 1:
            dist.all_reduce(value, group=copies_group())
        return value / self.topology.copies
