"""Batches: which tokens a rank sees in which step, and what it must predict."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pretrain.config import ParallelConfig
from pretrain.feed import BatchFeed
from pretrain.topology import plan_topology
from tests.parallel.training import SyntheticTokens, variant

CONFIG = variant(batch={"micro_size": 2})
TOKENS = SyntheticTokens(CONFIG.model.vocab_size, CONFIG.data.sequence_length)


def feed(rank: int = 0, world_size: int = 1, prefetch: int = 0, documents: bool = False) -> BatchFeed:
    topology = plan_topology(ParallelConfig(), world_size, rank)
    config = replace(
        CONFIG,
        train=replace(CONFIG.train, prefetch=prefetch),
        data=replace(CONFIG.data, document_attention=documents),
    )
    return BatchFeed(TOKENS, config, topology)


def test_the_label_of_a_token_is_the_next_token_of_the_sample() -> None:
    samples = torch.from_numpy(TOKENS.fetch(np.arange(8, 16)))
    batches = feed().step(1)
    assert torch.equal(torch.cat([batch.tokens_BT for batch in batches]), samples[:, :-1])
    assert torch.equal(torch.cat([batch.labels_BT for batch in batches]), samples[:, 1:])


def test_the_ranks_of_a_step_share_its_samples_without_overlap() -> None:
    whole = {tuple(row.tolist()) for batch in feed().step(3) for row in batch.tokens_BT}
    parts = [
        {tuple(row.tolist()) for batch in feed(rank, world_size=2).step(3) for row in batch.tokens_BT}
        for rank in range(2)
    ]
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == whole


def test_reading_ahead_changes_nothing() -> None:
    for ahead, direct in zip(feed(prefetch=2).steps(2, 6), feed().steps(2, 6), strict=True):
        for one, other in zip(ahead, direct, strict=True):
            assert torch.equal(one.tokens_BT, other.tokens_BT)


def test_document_starts_come_with_the_tokens_on_request_only() -> None:
    assert feed().step(0)[0].documents is None
    batch = feed(documents=True).step(0)[0]
    assert batch.documents is not None
    for tokens, starts in zip(batch.tokens_BT.tolist(), batch.documents.starts_TB.t().tolist(), strict=True):
        expected = 0
        for place, start in enumerate(starts):
            assert start == expected
            if tokens[place] == TOKENS.eod_id:
                expected = place + 1


def test_an_error_while_reading_ahead_reaches_the_trainer() -> None:
    class Torn(SyntheticTokens):
        def fetch(self, sample_numbers: np.ndarray) -> np.ndarray:
            if sample_numbers[0] >= 16:
                raise OSError("shard is gone")
            return super().fetch(sample_numbers)

    torn = Torn(CONFIG.model.vocab_size, CONFIG.data.sequence_length)
    topology = plan_topology(ParallelConfig(), 1)
    steps = BatchFeed(torn, replace(CONFIG, train=replace(CONFIG.train, prefetch=2)), topology).steps(0, 9)
    assert len([next(steps), next(steps)]) == 2
    with pytest.raises(OSError, match="shard is gone"):
        next(steps)
