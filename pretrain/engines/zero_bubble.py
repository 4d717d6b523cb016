"""One-forward-one-backward without most of its waiting: the gradients of weights fill the gaps ("ZB-H1").

In: micro-batches, stages, and which stage this is. Out: DeepSpeed's schedule with one more instruction. Always: every
stage runs the same passes in the same order as before, and messages go in the same order.

A stage waits for the stage after it to send the gradient of what it has sent. That gradient needs no gradient of any
weight, so a backward pass computes and sends it alone, and the products of the weights' gradients wait: on stage s
those of s micro-batches (Qi et al., "Zero Bubble Pipeline Parallelism", 2023). With F, B and W the time of a forward
pass, of a backward pass without these products, and of the products, a step of p stages takes longer than its work by

    1f1b         (p - 1)(F + B + W)
    zero_bubble  (p - 1)(F + B - W)

Stage s keeps the activations of p - s micro-batches, and of s more what their products read: together no more
micro-batches than stage 0 keeps either way.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from deepspeed.runtime.pipe.schedule import (
    BackwardPass,
    ForwardPass,
    PipeInstruction,
    ReduceTiedGrads,
    TrainSchedule,
)
from torch import nn

from model.deferred import DeferredGradients
from pretrain.engines import compat
from pretrain.engines.messages import Messages


class WeightGradients(PipeInstruction):
    """Computes the gradients of the weights for the oldest micro-batch that still lacks them."""


class ZeroBubbleSchedule(TrainSchedule):
    """DeepSpeed's 1F1B, with ``WeightGradients`` after what is sent and asked for and before the next pass."""

    def steps(self) -> Iterator[list[PipeInstruction]]:
        backward_passes = computed = 0
        for instructions in super().steps():
            for instruction in instructions:
                kept = 0 if isinstance(instruction, ReduceTiedGrads) else self.stage_id
                if isinstance(instruction, ForwardPass | BackwardPass | ReduceTiedGrads):
                    while backward_passes - computed > kept:
                        computed += 1
                        yield [WeightGradients()]
                yield [instruction]
                backward_passes += isinstance(instruction, BackwardPass)


def fill_bubbles(pipeline: Any, parameters: Sequence[nn.Parameter]) -> None:
    """Has DeepSpeed's pipeline engine train by this schedule; ``parameters`` are those of its stage."""
    deferred, messages = DeferredGradients(parameters), Messages(pipeline)

    def schedule(micro_batches: int) -> ZeroBubbleSchedule:
        deferred.forget()
        messages.settle()
        return ZeroBubbleSchedule(micro_batches, pipeline.num_stages, pipeline.stage_id)

    def backward(pipeline: Any, buffer_id: int) -> None:
        deferred.begin_pass()
        messages.execute[BackwardPass](pipeline, buffer_id)

    def weight_gradients(pipeline: Any) -> None:
        deferred.compute_oldest()

    compat.follow(pipeline, schedule, {**messages.execute, BackwardPass: backward, WeightGradients: weight_gradients})
