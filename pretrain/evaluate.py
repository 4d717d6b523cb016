"""Held-out loss during training.

In: the engine and the held-out samples. Out: loss (nats per token), bits per byte, perplexity, and the loss split into
AR-hits and others.
Always: the same samples in the same order at every evaluation and on every topology.
"""

import math
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from data.batch import BatchSchedule
from data.progress import Progress
from data.stream import Validation
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine
from pretrain.engines.evaluation import Evaluation
from pretrain.feed import BatchFeed
from pretrain.recall import RecallMarks
from pretrain.topology import Topology


class HeldOut:
    """The held-out samples of a run, in whole global batches."""

    def __init__(
        self, samples: Validation, config: RunConfig, topology: Topology, marks: RecallMarks | None = None
    ) -> None:
        self._samples = samples
        self._marks = marks
        every = BatchSchedule(config.batch.global_size)
        marked = () if marks is None else (marks.mark,)
        self._feed = BatchFeed(samples, config, topology, every, *marked)
        whole = samples.num_samples // config.batch.global_size
        if whole == 0:
            raise InputError(
                f"data.validation: {config.data.validation} holds {samples.num_samples} samples of "
                f"{config.data.sequence_length} tokens, fewer than one global batch ({config.batch.global_size})"
            )
        wanted = config.evaluation.batches
        self._batches = min(wanted, whole) if wanted else whole
        self._num_samples = self._batches * config.batch.global_size
        self._sequence_length = config.data.sequence_length
        self._tokens_per_batch = config.batch.global_size * config.data.sequence_length

    def evaluate(self, engine: Engine, step: int) -> dict[str, Any]:
        """Metrics of the model as it is after ``step`` steps."""
        if self._marks is not None:
            self._marks.prepare()
        progress = Progress(f"evaluating step {step}", self._batches, quiet=not engine.topology.is_main)
        found: list[Evaluation] = []
        for micro_batches in self._feed.steps(0, self._batches):
            found.append(engine.evaluate(micro_batches))
            progress.result = f"loss {sum(evaluation.loss for evaluation in found) / len(found):.4f}"
            progress.add(1, self._tokens_per_batch)
        progress.clear()
        loss = sum(evaluation.loss for evaluation in found) / self._batches
        return {
            "step": step,
            "validation_loss": loss,
            "validation_bits_per_byte": self._bits_per_byte(loss),
            "validation_perplexity": math.exp(min(loss, 700.0)),
            "validation_samples": self._num_samples,
            **self._split(loss, found),
        }

    def _bits_per_byte(self, loss: float) -> float | None:
        """None where the bytes of the text are not known, as in an adopted corpus."""
        bytes_per_token = self._samples.bytes_per_token
        return loss / math.log(2) / bytes_per_token if bytes_per_token else None

    def _split(self, loss: float, found: Sequence[Evaluation]) -> dict[str, Any]:
        """The mean loss of AR-hits and of the others; no entry for a part without any target."""
        if self._marks is None:
            return {}
        targets = self._num_samples * self._sequence_length
        hits = sum(evaluation.marked for evaluation in found)
        hit_loss = sum(evaluation.marked_loss for evaluation in found)
        split: dict[str, Any] = {"validation_ar_hit_share": hits / targets}
        if hits > 0:
            split["validation_ar_hit_loss"] = hit_loss / hits
        if hits < targets:
            split["validation_others_loss"] = (loss * targets - hit_loss) / (targets - hits)
        return split
