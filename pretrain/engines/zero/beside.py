"""Streams on which exchanges follow one another while the backward pass goes on, on devices that have streams.

In: chains of exchanges, and what they send. Out: the same, done by the device in time. Always: the host waits for
nothing; chains of one path are in the order in which they were started, on every rank; what `join` is called for has
happened before anything that the device is told later.

Without a stream of its own, what follows an arrival would lie behind all of the backward pass that the host, far ahead,
has already handed out. One stream for each path, as buckets that take the same way reuse each other's memory, and one
whose end comes late (a tied weight waits for another stage) holds up no other path.
"""

from collections.abc import Generator, Hashable

import torch
import torch.distributed as dist
from torch import Tensor


class Beside:
    """The streams of one rank."""

    def __init__(self) -> None:
        self._streams: dict[Hashable, torch.cuda.Stream] = {}

    def run(self, chain: Generator[dist.Work, None, None], sent: Tensor, path: Hashable) -> None:
        """Hands the whole chain out to the device, behind the chains of the same ``path``.

        Args:
            sent: what the chain sends; its memory is kept until then.
        """
        if path not in self._streams:
            self._streams[path] = torch.cuda.Stream()
        stream = self._streams[path]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for work in chain:
                work.wait()  # of the stream, not of the host
        sent.record_stream(stream)

    def join(self) -> None:
        """What the device is told from here on comes after all chains."""
        for stream in self._streams.values():
            torch.cuda.current_stream().wait_stream(stream)
