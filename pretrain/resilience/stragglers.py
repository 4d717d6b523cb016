"""Which node holds the others up: the time that each rank needs for its own work, compared between nodes.

In: the model, for hooks around its forward pass, and the iterator of batches. Out: a line that names slow nodes.
Own work is waiting for data plus the forward passes of a step. The backward pass is left out, because it ends in
collective calls and so takes equally long everywhere. What forward passes under ZeRO 1 and 2 wait for weights is taken
off. With ZeRO-3 they wait for parameters of other ranks inside DeepSpeed; there only the data and preflight's matrix
product tell nodes apart.
Always: ranks are compared within their pipeline stage; a node is named when it was slow in `PATIENCE` reports in a row.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import nn

from pretrain.stopwatch import Stopwatch

Item = TypeVar("Item")

PATIENCE = 3
RATIO = 1.3
"""a node's time over the median of the other nodes of its stage, above which it is slow"""


class WorkTimer:
    """Adds up this rank's own work.

    Args:
        module: the model.
        waits: seconds, since it was asked last, for which the forward passes in training waited for other ranks.
    """

    def __init__(self, module: nn.Module, waits: Callable[[], float]) -> None:
        self._data_seconds = 0.0
        self._steps = 0
        self._forward = Stopwatch()
        self._waits = waits
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def batches(self, batches: Iterator[Item]) -> Iterator[Item]:
        """``batches``, with the time that each took to arrive counted."""
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._data_seconds += time.perf_counter() - began
            self._steps += 1
            yield batch

    def take(self) -> float:
        """Mean seconds of own work per step since the last call; waits for the device."""
        forward = max(0.0, self._forward.take() - self._waits())
        mean = (self._data_seconds + forward) / max(1, self._steps)
        self._data_seconds, self._steps = 0.0, 0
        return mean

    def _before(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self._forward.start()

    def _after(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._forward.stop()


class StragglerReport:
    """Turns the times of all ranks into the names of slow nodes; rank 0 keeps one."""

    def __init__(self, hosts: Sequence[str], stages: Sequence[int]) -> None:
        """``hosts`` and ``stages``: node and pipeline stage of every rank."""
        self._hosts = hosts
        self._stages = stages
        self._slow_for: dict[str, int] = {}

    def judge(self, seconds: Sequence[float]) -> list[str]:
        """One line per node that has just been found slow; ``seconds`` by rank."""
        slow = slow_nodes(self._hosts, self._stages, seconds)
        self._slow_for = {node: self._slow_for.get(node, 0) + 1 for node in slow}
        return [
            f"straggler: {node} takes {ratio:.1f} times as long as the other nodes for its own work (data and forward "
            f"pass)"
            for node, ratio in slow.items()
            if self._slow_for[node] == PATIENCE
        ]


def slow_nodes(hosts: Sequence[str], stages: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """Nodes whose ranks are slow, and how many times as long they take as the median of the others of their stage."""
    found: dict[str, float] = {}
    for stage in set(stages):
        by_node: dict[str, list[float]] = {}
        for host, its_stage, value in zip(hosts, stages, seconds, strict=True):
            if its_stage == stage:
                by_node.setdefault(host, []).append(value)
        typical = {node: statistics.median(values) for node, values in by_node.items()}
        for node, value in typical.items():
            others = [other for name, other in typical.items() if name != node]
            ratio = value / max(statistics.median(others), 1e-9) if others else 0.0
            if ratio > RATIO:
                found[node] = max(ratio, found.get(node, 0.0))
    return found
