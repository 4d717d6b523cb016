"""The AR-hit split of the held-out loss: what can be recalled from the context, and the rest (DIFF paper, Table 6).

In: micro-batches of held-out tokens. Out: the same with AR-hits marked. Always: the bigrams that count as frequent come
from the beginning of the training text, are counted once, on one rank, and are the same on all.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from data.ar_hits import FrequentBigrams, ar_hits, count_frequent
from data.stream import TokenStream
from pretrain.config import RunConfig
from pretrain.engines.micro_batch import MicroBatch
from pretrain.topology import Topology

TOKENS_AT_ONCE = 1 << 20


class RecallMarks:
    """Marks the targets whose bigram stands earlier in the same sample and is not frequent in training."""

    def __init__(self, stream: TokenStream, config: RunConfig, topology: Topology) -> None:
        self._stream = stream
        self._config = config
        self._topology = topology
        self._frequent: FrequentBigrams | None = None

    def prepare(self) -> None:
        """Counts what is frequent, the first time; a call of all ranks."""
        if self._frequent is None:
            self._frequent = self._count()

    def mark(self, batch: MicroBatch) -> MicroBatch:
        """``batch``, of whole samples, with its AR-hits marked; after ``prepare``."""
        assert self._frequent is not None
        whole = torch.cat([batch.tokens_BT[:, :1], batch.labels_BT], dim=1).numpy()
        return replace(batch, marked_BT=torch.from_numpy(ar_hits(whole, self._frequent)))

    def _count(self) -> FrequentBigrams:
        """Counts on one rank, for all."""
        found: list[FrequentBigrams | None] = [None]
        if self._topology.is_main:
            found = [count_frequent(self._training_text(), self._config.model.vocab_size)]
        if self._topology.world_size > 1:
            dist.broadcast_object_list(found, src=0)
        assert found[0] is not None
        return found[0]

    def _training_text(self) -> Iterator[NDArray[np.int64]]:
        """The beginning of every source of the first mixture, in proportion to the weights."""
        mixture = self._stream.first_mixture
        total = sum(weight for _, weight in mixture)
        for source, weight in mixture:
            wanted = int(self._config.evaluation.ar_hit_tokens * weight / total)
            tokens = min(max(wanted, 2), source.manifest.tokens)
            for start in range(0, tokens, TOKENS_AT_ONCE):
                yield source.reader.read(start, min(TOKENS_AT_ONCE, tokens - start))[None]
