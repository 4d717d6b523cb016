"""The AR-hit split of the held-out loss: what can be recalled from the context, and the rest (DIFF paper, Table 6).

In: micro-batches of held-out tokens. Out: the same with AR-hits marked. Always: the bigrams that count as frequent come
from the first training samples, are counted once, on one rank, and are the same on all.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist

from data.ar_hits import FrequentBigrams, ar_hits, count_frequent
from data.stream import TokenStream
from pretrain.config import RunConfig
from pretrain.engine import MicroBatch
from pretrain.topology import Topology


class RecallMarks:
    """Marks the targets whose bigram stands earlier in the same sample and is not frequent in training."""

    def __init__(self, stream: TokenStream, config: RunConfig, topology: Topology) -> None:
        self._stream = stream
        self._vocab_size = config.model.vocab_size
        self._most_tokens = config.evaluation.ar_hit_tokens
        self._first_change = config.data.stages[0].from_tokens if config.data.stages else None
        self._topology = topology
        self._frequent: FrequentBigrams | None = None

    def mark(self, batch: MicroBatch) -> MicroBatch:
        """``batch`` with its AR-hits marked; the first call on any rank needs all ranks."""
        if self._frequent is None:
            self._frequent = self._count()
        whole = torch.cat([batch.tokens_BT[:, :1], batch.labels_BT], dim=1).numpy()
        return replace(batch, marked_BT=torch.from_numpy(ar_hits(whole, self._frequent)))

    def _count(self) -> FrequentBigrams:
        found: list[FrequentBigrams | None] = [None]
        if self._topology.is_main:
            length = self._stream.sequence_length(0)
            most = self._most_tokens if self._first_change is None else min(self._most_tokens, self._first_change)
            samples = max(1, most // length)
            found = [count_frequent(self._fetch, samples, self._vocab_size, self._most_tokens)]
        if self._topology.world_size > 1:
            dist.broadcast_object_list(found, src=0)
        assert found[0] is not None
        return found[0]

    def _fetch(self, numbers: np.ndarray) -> np.ndarray:
        return self._stream.fetch(numbers)
