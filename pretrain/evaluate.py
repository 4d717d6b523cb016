"""Held-out loss during training.

In: the engine and the held-out samples. Out: loss (nats per token), bits per byte and perplexity.
Always: the same samples in the same order at every evaluation and on every topology.
"""

import math
from typing import Any

from common.errors import InputError
from data.batch import BatchSchedule
from data.stream import Validation
from pretrain.config import RunConfig
from pretrain.engine import Engine
from pretrain.feed import BatchFeed
from pretrain.topology import Topology


class HeldOut:
    """The held-out samples of a run, in whole global batches."""

    def __init__(self, samples: Validation, config: RunConfig, topology: Topology) -> None:
        self._samples = samples
        self._feed = BatchFeed(samples, config, topology, BatchSchedule(config.batch.global_size))
        whole = samples.num_samples // config.batch.global_size
        if whole == 0:
            raise InputError(
                f"data.validation: {config.data.validation} holds {samples.num_samples} samples of "
                f"{config.data.sequence_length} tokens, fewer than one global batch ({config.batch.global_size})"
            )
        wanted = config.evaluation.batches
        self._batches = min(wanted, whole) if wanted else whole
        self._num_samples = self._batches * config.batch.global_size

    def evaluate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Metrics of the model as it is after ``step`` steps."""
        total = 0.0
        for micro_batches in self._feed.steps(0, self._batches):
            total += engine.evaluate(micro_batches)
        loss = total / self._batches
        return {
            "step": step,
            "validation_loss": loss,
            "validation_bits_per_byte": loss / math.log(2) / self._samples.bytes_per_token,
            "validation_perplexity": math.exp(min(loss, 700.0)),
            "validation_samples": self._num_samples,
        }
