"""The list of layers cut into stages, run one-forward-one-backward by DeepSpeed's pipeline engine.

In: what an Engine takes. Out: an Engine for two and more pipeline stages. Always: every rank knows the loss, which the
last stage computes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from model.layers import LayerDefinition
from model.loss import cross_entropy_TB, mean_loss
from model.payload import Payload
from pretrain.config import RunConfig
from pretrain.engines import compat
from pretrain.engines.engine import Engine, Judge
from pretrain.engines.evaluation import Evaluation, MarkedLoss
from pretrain.engines.micro_batch import MicroBatch
from pretrain.engines.stages import StagedModel
from pretrain.engines.zero_bubble import fill_bubbles
from pretrain.topology import Topology


class PipelinedEngine(Engine):
    """The list of layers cut into stages, run one-forward-one-backward by DeepSpeed's pipeline engine."""

    def __init__(self, config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition], judge: Judge) -> None:
        marked = MarkedLoss()

        def loss(head: Callable[..., torch.Tensor], payload: Payload, batch: MicroBatch) -> torch.Tensor:
            if batch.marked_BT is None:
                return head(payload, finish=mean_loss(batch.labels_BT))
            loss_TB = head(payload, finish=cross_entropy_TB(batch.labels_BT))
            marked.add(loss_TB, batch.marked_BT)
            return loss_TB.mean()

        self._marked = marked
        self._shape: torch.Size | None = None
        self._staged = StagedModel(config.model, layers, topology, loss)
        super().__init__(config, topology, self._staged, judge)
        if config.parallel.pipeline_schedule == "zero_bubble":
            fill_bubbles(self.deepspeed, self.parameters)
        compat.after_each(self.deepspeed, "BackwardPass", partial(compat.forget_loss, self.deepspeed))

    def _run_step(self, micro_batches: Sequence[MicroBatch]) -> None:
        self.deepspeed.train_batch(self._batches(micro_batches))

    def _global_loss(self) -> float:
        return compat.step_loss(self.deepspeed)

    def _loss_here(self) -> torch.Tensor | None:
        total = compat.stage_loss(self.deepspeed)
        return None if total is None else total / self.accumulation_steps

    def _model_group(self) -> dist.ProcessGroup | None:
        return compat.replica_group(self.deepspeed)

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
        here = [batch.to(self.device) for batch in micro_batches]
        self._staged.expect(here)
        return iter([(batch.tokens_BT, batch.labels_BT) for batch in here])
