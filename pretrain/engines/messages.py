"""Messages between pipeline stages that nobody waits for before what they bring is needed.

In: DeepSpeed's pipeline engine. Out: how it carries out its sends, receives and passes. Always: a stage exchanges with
a neighbour in the order of its schedule, so both ends of a link ask it for the same messages in the same order; what is
sent lives until it has been received.

DeepSpeed's own sends end when the other end has received: where that one works on something else meanwhile, this one
would wait for it.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.pipe.schedule import (
    BackwardPass,
    ForwardPass,
    PipeInstruction,
    RecvActivation,
    RecvGrad,
    SendActivation,
    SendGrad,
)
from torch import Tensor

from pretrain.engines import compat


class Messages:
    """The messages of one stage."""

    def __init__(self, pipeline: Any) -> None:
        self._buffers = compat.pipe_buffers(pipeline)
        self._before, self._after = compat.neighbours(pipeline)
        self._sent: deque[tuple[dist.Work, Tensor]] = deque()
        self._asked: dict[type[PipeInstruction], tuple[dist.Work, Tensor]] = {}
        """by the pass that needs them"""

    @property
    def execute(self) -> Mapping[type[PipeInstruction], compat.Execute]:
        """How each kind of instruction is carried out."""
        return {
            SendActivation: self._send_activations,
            SendGrad: self._send_gradient,
            RecvActivation: self._ask_for_activations,
            RecvGrad: self._ask_for_gradient,
            ForwardPass: self._forward,
            BackwardPass: self._backward,
        }

    def settle(self) -> None:
        """Lets go of what was sent in the step before, which ended when all of it had been received.

        gloo does not say that a message has been received before it is asked to wait for it.
        """
        while self._sent:
            self._sent.popleft()[0].wait()

    def _send_activations(self, pipeline: Any, buffer_id: int) -> None:
        outputs = self._buffers["outputs"][buffer_id]
        compat.tell_shape(pipeline, outputs)
        self._send(outputs.detach(), self._after)

    def _send_gradient(self, pipeline: Any, buffer_id: int) -> None:
        self._send(self._buffers["inputs"][buffer_id].grad, self._before)
        self._buffers["inputs"][buffer_id] = None

    def _ask_for_activations(self, pipeline: Any, buffer_id: int) -> None:
        inputs = compat.arriving(pipeline)
        self._ask(ForwardPass, inputs, self._before)
        self._buffers["inputs"][buffer_id] = inputs.requires_grad_()

    def _ask_for_gradient(self, pipeline: Any, buffer_id: int) -> None:
        outputs = self._buffers["outputs"][buffer_id]
        self._ask(BackwardPass, torch.empty_like(outputs, requires_grad=False), self._after)

    def _forward(self, pipeline: Any, buffer_id: int) -> None:
        self._wait(ForwardPass)
        compat.execute_as_deepspeed(pipeline, ForwardPass, buffer_id)

    def _backward(self, pipeline: Any, buffer_id: int) -> None:
        gradient = self._wait(BackwardPass)
        if gradient is not None:
            compat.set_output_gradient(pipeline, gradient)
        compat.execute_as_deepspeed(pipeline, BackwardPass, buffer_id)

    def _send(self, tensor: Tensor, rank: int) -> None:
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()[0].wait()
        work = dist.isend(tensor, rank)
        assert work is not None
        self._sent.append((work, tensor))

    def _ask(self, needed_by: type[PipeInstruction], tensor: Tensor, rank: int) -> None:
        work = dist.irecv(tensor, rank)
        assert work is not None
        self._asked[needed_by] = work, tensor

    def _wait(self, needed_by: type[PipeInstruction]) -> Tensor | None:
        """What has arrived for this pass; None where no other stage sends anything for it."""
        if needed_by not in self._asked:
            return None
        work, tensor = self._asked.pop(needed_by)
        work.wait()
        return tensor
