"""What of ZeRO 3's exchanges stays in the open, by DeepSpeed's own prefetch.

In: in how many calls weights are gathered and gradients reduced; seconds of the exchanges and of the passes. Out:
seconds in the open. Always: a reading of deepspeed.runtime.zero 0.19, in equal groups. Weights are gathered in groups
of `stage3_prefetch_bucket_size` elements, each while the one before is at work, the first of a forward pass in the
open: of a model smaller than one group nothing is hidden. Gradients are reduced in buckets of `reduce_bucket_size` on a
stream of their own, for which the end of every backward pass waits; on CPUs there are no streams, and each is waited
for at once.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Zero3Calls:
    """Collectives of one micro-batch."""

    forward: int
    """gathers before and during the forward pass"""
    backward: int
    """gathers during the backward pass, of weights that were let go"""
    gradients: int
    """reductions"""

    @property
    def gathers(self) -> int:
        """Of both passes."""
        return self.forward + self.backward


def zero3_exposed(
    calls: Zero3Calls, gather: float, reduce: float, forward: float, backward: float, streams: bool
) -> float:
    """Seconds that one micro-batch waits.

    Args:
        gather, reduce: seconds of all gathers and all reductions of the micro-batch.
        forward, backward: seconds of the passes by themselves.
        streams: whether reductions go on beside the backward pass.
    """
    one = gather / calls.gathers
    waits = one + max(0.0, (calls.forward - 1) * (one - forward / calls.forward))
    beside = calls.backward * one
    last = reduce
    if streams:
        last = reduce / calls.gradients
        beside += reduce - last
    return waits + max(0.0, beside - backward) + last
