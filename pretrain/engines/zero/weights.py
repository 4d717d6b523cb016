"""Weights return while the next forward pass goes on: bucket by bucket, in the order in which it needs them.

In: buckets, what updates their fp32 partitions, and the layers that read the weights. Out: whole weights before a layer
reads them. Always: a layer waits for the buckets of its own parameters, and for no others.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import nn

from model.exchange import gather_flat
from pretrain.engines.zero.flat import FlatBucket
from pretrain.stopwatch import Stopwatch


class WeightReturn:
    """Brings the updated partitions of ``buckets`` to all ranks.

    Args:
        group: the ranks among which the buckets are partitioned; None: this rank alone.
        overlap: return before the weights are there; else wait for them.
    """

    def __init__(self, buckets: Sequence[FlatBucket], group: dist.ProcessGroup | None, overlap: bool) -> None:
        self._buckets = buckets
        self._group = group
        self._overlap = overlap
        self._under_way: dict[int, dist.Work] = {}
        self.waits = Stopwatch()
        """of layers in training"""

    @torch.no_grad()
    def start(self, update: Callable[[int], None] = lambda index: None) -> None:
        """Sends this rank's partitions and asks for the others'.

        Args:
            update: brings a bucket's partition, by its index, up to date. The first ones, which the next forward pass
                needs first, are on their way while the later ones are updated.
        """
        self.settle()
        for index, bucket in enumerate(self._buckets):
            update(index)
            bucket.own_weights.copy_(bucket.master)
            if self._group is not None:
                self._under_way[index] = gather_flat(bucket.weights, bucket.own_weights, self._group)
        if not self._overlap:
            self.settle()

    def settle(self) -> None:
        """Waits until all weights are there."""
        for work in self._under_way.values():
            work.wait()
        self._under_way.clear()

    def wait_before(self, layers: Iterable[nn.Module], rest: nn.Module) -> None:
        """Has each of ``layers`` wait for its weights when it is called, and ``rest`` for those of no layer."""
        wanted = {id(parameter): index for index, one in enumerate(self._buckets) for parameter in one.parameters}
        left = set(wanted.values())
        for layer in layers:
            indices = sorted({wanted[id(parameter)] for parameter in layer.parameters() if id(parameter) in wanted})
            left -= set(indices)
            layer.register_forward_pre_hook(lambda layer, _, indices=indices: self._wait(indices, layer.training))
        if left:
            rest.register_forward_pre_hook(lambda rest, _: self._wait(sorted(left), rest.training))

    def _wait(self, indices: Sequence[int], training: bool) -> None:
        wanted = [work for index in indices if (work := self._under_way.pop(index, None)) is not None]
        if wanted and training:
            self.waits.start()
        for work in wanted:
            work.wait()
        if wanted and training:
            self.waits.stop()
