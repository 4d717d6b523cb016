"""Gradients leave while the backward pass goes on: bucket by bucket, each rank receiving its partition only.

In: buckets, the ranks that share their partitions, and the micro-batches of a step. Out: in a bucket's ``own_sums``
the sum over all micro-batches and ranks. Always: sums are fp32 and are taken in the order of the ranks, so they do not
depend on when what arrives; buckets leave in the order in which the backward pass completes them, which is the same on
all ranks.

    gradient ready   -> added to the bucket's fp32 sums (ZeRO 1), or laid into what leaves (ZeRO 2)
    bucket complete  -> sent: ZeRO 1 in the last micro-batch's backward pass, ZeRO 2 in every one's
    arrived          -> summed in fp32, then over the further groups (replicas of the partition, the other end of a
                        tied weight), whose exchange is of the partition only: on a GPU at once, on streams of their
                        own (beside.py), on a CPU when the next bucket is complete

NCCL's reduce-scatter adds on the way. Where what travels is narrower than the sums, and on gloo, whose reduce-scatter
is an all-reduce in disguise, ranks exchange their parts and add them up themselves: the same bytes.
"""

from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.exchange import reduce_scatter_flat
from model.parallel import info_of
from pretrain.engines.zero.beside import Beside
from pretrain.engines.zero.flat import FlatBucket

TRAVELS = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""types in which gradients are sent, by `parallel.gradient_exchange`"""
Chain = Generator[dist.Work, None, None]
"""Exchanges that follow one another; between them is what the next one needs"""


class GradientExchange:
    """Sends the gradients of ``buckets``.

    Args:
        group: the ranks among which the buckets are partitioned; None: this rank alone.
        travels: type in which gradients are sent.
        further: by the index of a bucket, the groups over which its partition is summed at last.
        overlap: go on while gradients are on their way; else wait for each bucket.
        beside: streams for what follows an arrival; None: the host looks after it, as on a CPU.
    """

    def __init__(
        self,
        buckets: Sequence[FlatBucket],
        group: dist.ProcessGroup | None,
        travels: torch.dtype,
        further: Mapping[int, Sequence[dist.ProcessGroup]],
        overlap: bool,
        beside: Beside | None = None,
    ) -> None:
        self._group = group
        self._beside = beside
        self._travels = travels
        self._overlap = overlap
        self._micro_batches = 1
        self._outbound = [_Outbound(bucket, tuple(further.get(index, ()))) for index, bucket in enumerate(buckets)]
        self._held: list[_Outbound] = []
        """complete buckets that leave when the backward pass is over"""
        self._under_way: deque[tuple[Chain, dist.Work]] = deque()
        for outbound in self._outbound:
            for index, parameter in enumerate(outbound.bucket.parameters):
                parameter.register_post_accumulate_grad_hook(partial(self._take, outbound, index))

    def begin_step(self, micro_batches: int) -> None:
        """Expects the gradients of so many micro-batches; forgets those of a step that was not finished."""
        self._micro_batches = micro_batches
        self._under_way.clear()
        self._held.clear()
        for outbound in self._outbound:
            outbound.begin_step()

    def finish(self) -> None:
        """Waits until every bucket's ``own_sums`` are whole.

        Raises:
            RuntimeError: a parameter got no gradient in one of the backward passes.
        """
        if missing := [one for one in self._outbound if one.backward_passes < self._micro_batches]:
            names = ", ".join(info_of(parameter).name for parameter in missing[0].bucket.parameters)
            raise RuntimeError(f"not every one of these parameters got a gradient in every micro-batch: {names}")
        for outbound in self._held:
            self._send(outbound)
            self._settle()
        self._settle()

    def _settle(self) -> None:
        while self._under_way:
            self._advance()
        if self._beside is not None:
            self._beside.join()

    @torch.no_grad()
    def _take(self, outbound: "_Outbound", index: int, parameter: nn.Parameter) -> None:
        """The hook of one parameter: its gradient of one micro-batch is there."""
        assert parameter.grad is not None
        completed = outbound.add(index, parameter.grad, self._travels)
        parameter.grad = None
        if not completed:
            return
        if outbound.bucket.sums is None or outbound.backward_passes == self._micro_batches:
            if self._overlap:
                self._send(outbound)
            elif outbound.bucket.sums is None:
                self._send(outbound)
                self._settle()
            else:  # another stage may still compute what a tied weight's sum waits for
                self._held.append(outbound)
        while self._under_way and self._under_way[0][1].is_completed():
            self._advance()

    @torch.no_grad()
    def _send(self, outbound: "_Outbound") -> None:
        further = outbound.further if outbound.backward_passes == self._micro_batches else ()
        outgoing = outbound.take(self._travels)
        chain = self._exchange(outbound.bucket, outgoing, further, outbound.is_first())
        if self._beside is not None:
            self._beside.run(chain, outgoing, path=outbound.further)
            return
        work = next(chain, None)
        if work is not None:
            self._under_way.append((chain, work))

    def _advance(self) -> None:
        """The oldest chain goes on; always the oldest, so that all ranks of a further group ask it in one order."""
        chain, work = self._under_way.popleft()
        work.wait()
        following = next(chain, None)
        if following is not None:
            self._under_way.appendleft((chain, following))

    def _exchange(
        self, bucket: FlatBucket, outgoing: Tensor, further: Sequence[dist.ProcessGroup], first: bool
    ) -> Chain:
        """What happens to ``outgoing``, one exchange after the other."""
        if self._group is None:
            arrived = outgoing  # the sums themselves under ZeRO 1
        elif adds_on_the_way(outgoing.dtype, dist.get_backend(self._group)):
            arrived = torch.empty_like(bucket.own_sums)
            yield reduce_scatter_flat(arrived, outgoing, self._group)
        else:
            parts = torch.empty_like(outgoing)
            yield _work(dist.all_to_all_single(parts, outgoing, group=self._group, async_op=True))
            arrived = _sum_of_parts(parts.view(self._group.size(), -1), bucket.own_sums.dtype)
        if self._group is not None or bucket.sums is None:
            _lay_into(bucket.own_sums, arrived, first)
        for group in further:
            yield _work(dist.all_reduce(bucket.own_sums, group=group, async_op=True))


class _Outbound:
    """What one bucket has collected in the step so far."""

    def __init__(self, bucket: FlatBucket, further: tuple[dist.ProcessGroup, ...]) -> None:
        self.bucket = bucket
        self.further = further
        self.backward_passes = 0
        """micro-batches of which every parameter has given its gradient"""
        self._given = [0] * len(bucket.parameters)
        """micro-batches of which each has: some run ahead where a pipeline defers the others' gradients"""
        self._reached = Counter[int]()
        """how many parameters have given the gradient of each micro-batch, by its number in the step"""
        self._sent = 0
        self._flat: Tensor | None = bucket.sums
        self._views = [] if bucket.sums is None else bucket.views_of(bucket.sums)

    def begin_step(self) -> None:
        self.backward_passes = self._sent = 0
        self._given = [0] * len(self._given)
        self._reached.clear()

    def add(self, index: int, gradient: Tensor, travels: torch.dtype) -> bool:
        """Adds the gradient of the parameter ``index``; whether it was the last one that a micro-batch lacked.

        Under ZeRO 2 nothing of the earlier micro-batches is here, and no parameter may run ahead.
        """
        if self._flat is None:
            self._flat = torch.empty(self.bucket.weights.shape, dtype=travels, device=gradient.device)
            self._flat[self.bucket.elements :] = 0
            self._views = self.bucket.views_of(self._flat)
        self._given[index] += 1
        given = self._given[index]
        _lay_into(self._views[index], gradient, first=self.bucket.sums is None or given == 1)
        self._reached[given] += 1
        if self._reached[given] < len(self._given):
            return False
        self.backward_passes = given
        return True

    def take(self, travels: torch.dtype) -> Tensor:
        """What is to be sent, flat."""
        if self.bucket.sums is not None:
            return self.bucket.sums.to(travels)
        flat, self._flat, self._views = self._flat, None, []
        assert flat is not None
        return flat

    def is_first(self) -> bool:
        """Whether nothing of this step has arrived in the bucket before what is sent now."""
        self._sent += 1
        return self._sent == 1


def adds_on_the_way(travels: torch.dtype, backend: str) -> bool:
    """Whether gradients are sent by a reduce-scatter; else ranks exchange their parts and add them up themselves."""
    return travels == torch.float32 and backend == "nccl"


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this rank is in no group that it exchanges with"
    return work


def _lay_into(target: Tensor, values: Tensor, first: bool) -> None:
    if first:
        target.copy_(values)
    else:
        target.add_(values)


def _sum_of_parts(parts_RP: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over ranks R in their order, whatever the number of threads; no wider copy of all parts is made."""
    total = parts_RP[0].to(dtype, copy=True)
    for part in parts_RP[1:]:
        total.add_(part)
    return total
