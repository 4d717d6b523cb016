"""The training loop: steps, evaluations, checkpoints, in that order, until the last step.

In: the parts that pretrain/run.py composes. Out: a finished (or cleanly stopped) run.
Always: after a checkpoint of step s, a new start goes on with step s as if nothing had happened.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from data.stream import TokenStream
from pretrain.checkpoint.state import local_fragments
from pretrain.checkpoint.writer import CheckpointFacts, CheckpointWriter
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine, StepResult
from pretrain.engines.micro_batch import MicroBatch
from pretrain.evaluate import HeldOut
from pretrain.feed import BatchFeed
from pretrain.metrics import StepMeter
from pretrain.resilience.supervisor import Ending, Supervisor
from pretrain.schedule import learning_rate
from pretrain.sinks.base import Sink
from pretrain.start_up import StartUp
from pretrain.telemetry.telemetry import Telemetry
from pretrain.topology import Topology


class CheckpointError(RuntimeError):
    """A save failed, and the run may not go on (or end) without it."""


@dataclass
class TrainerState:
    """What a resumed run must know beside weights, moments and its step."""

    best_validation_loss: float | None = None
    tokens: int = 0
    """trained on so far; not a function of the step where batches or sequences grow"""
    applied_steps: int = 0
    """steps that Adam's moments come from: refused ones are not among them, those of a branch's origin are"""

    def saved(self) -> dict[str, Any]:
        """As JSON."""
        return vars(self).copy()


@dataclass
class Trainer:
    """Owns the loop; owns no resources."""

    config: RunConfig
    config_values: dict[str, Any]
    topology: Topology
    engine: Engine
    stream: TokenStream
    feed: BatchFeed
    held_out: HeldOut | None
    meter: StepMeter
    telemetry: Telemetry
    writer: CheckpointWriter
    sinks: Sequence[Sink]
    supervisor: Supervisor
    state: TrainerState = field(default_factory=TrainerState)
    lineage: dict[str, Any] = field(default_factory=dict)
    """where the weights come from, as every checkpoint keeps it; on rank 0, which writes it, this start included"""
    start_up: StartUp = field(default_factory=StartUp)

    def fit(self, start: int) -> Ending | None:
        """Trains from step ``start`` to the last, and saves it; an Ending says why training ended before."""
        steps = self.config.train.steps
        self.meter.pause()
        self.supervisor.starts(start)
        ending = None
        for step, micro_batches in enumerate(self.supervisor.batches(self.feed.steps(start, steps)), start=start):
            rate = learning_rate(self.config.schedule, self.config.optimizer.learning_rate, steps, step)
            done = step + 1
            inside = self.telemetry.due(done)
            if inside:
                self.telemetry.begin()
            result = self.engine.train_step(micro_batches, rate)
            numbers = self.telemetry.end(result) if inside else {}
            self.start_up.over()
            self._count(micro_batches, result)
            self.state.applied_steps += result.applied
            if self._due(self.config.metrics.every, done) or inside or not result.applied:
                self._tell(self.meter.record(done, self.state.tokens, result, rate) | numbers)
            ending = self.supervisor.after_step(step, result)
            if ending is not None:
                if ending.saves:
                    self._save(done, last=True)
                break
            if self.held_out is not None and self._due(self.config.evaluation.every, done):
                self._evaluate(done)
            if self._due(self.config.checkpoint.every, done):
                self._save(done, last=done == steps)
        self.engine.settle()
        # Where nothing is saved at the end, what failed is an older save, and a rollback has to be recorded.
        self._report_failed_save(self.writer.wait(), ends=ending is None or ending.saves)
        return ending

    def _count(self, micro_batches: Sequence[MicroBatch], result: StepResult) -> None:
        tokens = sum(batch.tokens_BT.numel() for batch in micro_batches) * self.topology.copies
        self.state.tokens += tokens
        self.meter.count(tokens, result, self.feed.waited)

    def _due(self, every: int, done: int) -> bool:
        return done == self.config.train.steps or (every > 0 and done % every == 0)

    def _evaluate(self, done: int) -> None:
        assert self.held_out is not None
        metrics = self.held_out.evaluate(self.engine, done)
        loss, best = metrics["validation_loss"], self.state.best_validation_loss
        if math.isfinite(loss) and (best is None or loss < best):
            self.state.best_validation_loss = loss
        self._tell(metrics)
        self.meter.pause()
        self.supervisor.alive(done)

    def _save(self, done: int, last: bool) -> None:
        facts = CheckpointFacts(
            step=done,
            config=self.config_values,
            state={
                "data": self.stream.state(self.config.batch.schedule.first_sample(done)),
                "trainer": self.state.saved(),
                "spikes": self.supervisor.guard.state(),
                "random": random_state(),
                "lineage": self.lineage,
            },
            topology=self.topology.describe(),
        )
        failure = self.writer.save(list(local_fragments(self.engine)), facts)
        settings = self.config.checkpoint
        own = last and not settings.asynchronous  # else it is the save before that failed
        self._report_failed_save(failure, ends=own or settings.on_failure == "stop")
        self.meter.pause()
        self.supervisor.alive(done)

    def _report_failed_save(self, failure: str | None, ends: bool) -> None:
        """Warns of ``failure``, or raises CheckpointError where it ends the run."""
        if failure is None:
            return
        if ends:
            raise CheckpointError(failure)
        if self.topology.is_main:
            print(f"WARNING: {failure}; training goes on with the checkpoints before it", flush=True)

    def _tell(self, metrics: dict[str, Any]) -> None:
        stamped = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **metrics}
        for sink in self.sinks:
            sink.write(stamped)


def random_state() -> dict[str, str]:
    """Torch's CPU generator, as JSON."""
    return {"torch": bytes(torch.get_rng_state().numpy()).hex()}
