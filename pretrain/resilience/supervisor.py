"""Looks after a run while it trains: one question after every step, whether and how it ends here.

In: the result of each step, and what the signals, the spike rule and the clocks of all ranks say.
Out: None, or an Ending that is equal on every rank; skipped steps on record; slow nodes named.
Always: one collective call of three integers per step; ranks that disagree about a step end the run, because they
would train different models from there on.
"""

import math
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist

from data.stream import TokenStream
from pretrain.checkpoint.agreement import told_by_main
from pretrain.config import RunConfig
from pretrain.engines.engine import Engine, StepResult
from pretrain.records import StepFile, forgiving
from pretrain.resilience.attempts import SKIPPED_FILE, Attempt, Outcome
from pretrain.resilience.rollback import read_rollbacks, roll_back, samples_of
from pretrain.resilience.signals import StopSignal, describe_signal
from pretrain.resilience.spikes import SpikeGuard
from pretrain.resilience.stragglers import StragglerReport, WorkTimer
from pretrain.resilience.watchdog import Watchdog
from pretrain.topology import Topology, device_of

STRAGGLER_EVERY = 20
"""steps between comparisons of the nodes' own work; short ones would compare noise"""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ending:
    """Why training ends now."""

    outcome: Outcome
    reason: str

    @property
    def saves(self) -> bool:
        """Whether the last step is worth a checkpoint; a rollback throws it away."""
        return self.outcome is Outcome.STOPPED


class Supervisor:
    """Every rank has one and asks it after the same steps."""

    def __init__(
        self,
        config: RunConfig,
        topology: Topology,
        attempt: Attempt,
        stop: StopSignal,
        guard: SpikeGuard,
        watchdog: Watchdog,
        engine: Engine,
        stream: TokenStream,
    ) -> None:
        """A collective call: the ranks tell each other their nodes."""
        self.guard = guard
        self._config = config
        self._topology = topology
        self._attempt = attempt
        self._stop = stop
        self._watchdog = watchdog
        self._timer = WorkTimer(engine.module, engine.take_waits)
        self._stream = stream
        self.hosts = _hosts_of_ranks(topology)
        """by rank"""
        stages = [replace(topology, rank=rank).stage for rank in range(topology.world_size)]
        self._stragglers = StragglerReport(self.hosts, stages)
        self._skipped: StepFile | None = None
        self._applied_any = False

    def starts(self, step: int) -> None:
        """Training begins at ``step``: puts that on record, and forgets what an earlier start skipped after it."""
        self._watchdog.beat(step)
        if not self._topology.is_main:
            return
        self._attempt.start(step, hosts=self.hosts, topology=self._topology.describe())
        self._skipped = StepFile(self._config.run_folder / SKIPPED_FILE, step)

    def batches(self, batches: Iterator[Item]) -> Iterator[Item]:
        """``batches``, with the waiting time for each counted as this rank's own work."""
        return self._timer.batches(batches)

    def after_step(self, step: int, result: StepResult) -> Ending | None:
        """To be asked after step ``step``, counted from 0, on every rank."""
        done = step + 1
        received, applied, skipped = self._largest([self._stop.received, result.applied, not result.applied])
        if applied and skipped:
            raise RuntimeError(f"step {done}: some ranks applied it and others did not; loss {result.loss}")
        self.alive(done)
        if self._topology.is_main:
            self._attempt.progress(done)
        self._applied_any = self._applied_any or result.applied
        if not result.applied:
            self._record_skip(step, result)
        self.guard.took(step, result.loss, result.grad_norm, result.applied)
        if self._begins_a_stage(done):
            self.guard.begin_anew()
        if done % STRAGGLER_EVERY == 0:
            self._report_stragglers()
        too_many = self.guard.steps_to_roll_back()
        if too_many:
            return self._rollback(too_many)
        if done == self._config.train.steps and not self._applied_any and not math.isfinite(result.loss):
            return Ending(Outcome.GAVE_UP, f"no step of this start reached the weights, and the loss is {result.loss}")
        if received and done < self._config.train.steps:
            return Ending(Outcome.STOPPED, describe_signal(signal.Signals(received)))
        return None

    def alive(self, done: int) -> None:
        """Something other than a step has been finished, too: an evaluation, a save."""
        self._watchdog.beat(done)

    def conclude(self, ending: Ending | None) -> Outcome:
        """Does and records what the end asks for, once the last save is over; a collective call."""
        if ending is None:
            announce_end(self._attempt, self._topology, self._config)
            outcome = Outcome.FINISHED
        else:
            outcome = ending.outcome
            if self._topology.is_main:
                self._end_early(ending)
        if self._skipped is not None:
            self._skipped.close()
        if self._topology.world_size > 1:
            dist.barrier()  # no rank leaves while rank 0 writes
        return outcome

    def _end_early(self, ending: Ending) -> None:
        reason = ending.reason
        if ending.outcome is Outcome.ROLLED_BACK:
            steps = self.guard.steps_to_roll_back()
            samples = samples_of(self._stream, steps, self._config.batch.schedule)
            reason += f"; going back to step {roll_back(self._config.run_folder, steps, samples)}"
        self._attempt.end(ending.outcome, reason)
        print(f"{ending.outcome}: {self._config.run_folder} ({reason})", flush=True)

    def _begins_a_stage(self, step: int) -> bool:
        """Whether step ``step``, counted from 0, is the first with other data than the one before."""
        first_sample = self._config.batch.schedule.first_sample
        return self._stream.stage_of(first_sample(step)) != self._stream.stage_of(first_sample(step - 1))

    def _rollback(self, steps: list[int]) -> Ending:
        nearby = min(steps) - self._config.resilience.spike_window
        rollbacks = told_by_main(self._topology, lambda: read_rollbacks(self._config.run_folder))
        before = sum(1 for done in rollbacks if min(done.skipped_steps) >= nearby)
        what = f"{len(steps)} steps skipped since step {min(steps) + 1}"
        if before >= self._config.resilience.max_rollbacks:
            return Ending(Outcome.GAVE_UP, f"{what}, after {before} rollbacks; see {SKIPPED_FILE} and docs/failures.md")
        return Ending(Outcome.ROLLED_BACK, f"{what}; their samples are left out from now on")

    def _record_skip(self, step: int, result: StepResult) -> None:
        if not self._topology.is_main:
            return
        reason = self.guard.reason_to_skip(result.loss, result.grad_norm)
        line = {
            "step": step + 1,
            "reason": reason,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "samples": samples_of(self._stream, [step], self._config.batch.schedule),
        }
        if self._skipped is not None:
            self._skipped.write(line)
        print(f"step {step + 1} skipped: {reason}", flush=True)

    def _report_stragglers(self) -> None:
        if self._topology.world_size == 1:
            return
        own = torch.tensor([self._timer.take()], dtype=torch.float64, device=device_of(self._topology))
        everyone = [torch.empty_like(own) for _ in range(self._topology.world_size)]
        dist.all_gather(everyone, own)
        if self._topology.is_main:
            for line in self._stragglers.judge([float(seconds) for seconds in everyone]):
                print(line, flush=True)

    def _largest(self, values: Sequence[int]) -> list[int]:
        """The largest value of any rank, for each place; a collective call."""
        if self._topology.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64, device=device_of(self._topology))
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]


def announce_end(attempt: Attempt, topology: Topology, config: RunConfig) -> None:
    """Says and records, once, that the run has taken its last step."""
    if topology.is_main:
        with forgiving("the launcher sees by the exit status that the run is finished"):
            attempt.end(Outcome.FINISHED, f"all {config.train.steps} steps are done")
        print(f"finished: {config.run_folder} ({config.train.steps} steps; raise train.steps to go on)", flush=True)


def _hosts_of_ranks(topology: Topology) -> list[str]:
    hosts = [socket.gethostname()] * topology.world_size
    if topology.world_size > 1:
        dist.all_gather_object(hosts, hosts[0])
    return hosts
