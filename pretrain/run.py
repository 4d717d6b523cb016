"""The composition root: every part of a run, built in the order in which data flows.

In: a RunConfig. Out: a finished run in its folder. Always: whatever is wrong with the input is found before the
model is built, and before any process group starts where that is possible.
"""

import dataclasses
from collections.abc import Callable

from common.urls import values_without_credentials
from model.counts import training_flops_per_token
from model.recorder import Recorder
from pretrain.build import build_model, run_kernels
from pretrain.checkpoint.layout import checkpoints_of
from pretrain.checkpoint.remote_start import join_remote
from pretrain.checkpoint.retention import remove_leftovers
from pretrain.checkpoint.staging import open_staging
from pretrain.checkpoint.writer import CheckpointWriter, writer_settings
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.engines.build import build_engine
from pretrain.engines.compat import logger as library_log
from pretrain.engines.connection import connect, disconnect
from pretrain.evaluate import HeldOut
from pretrain.feed import BatchFeed
from pretrain.metrics import StepMeter
from pretrain.opening import opening_lines, sinks_line
from pretrain.recall import RecallMarks
from pretrain.resilience.attempts import Attempt, Outcome, current_attempt, recorded_failures
from pretrain.resilience.rollback import with_rollbacks
from pretrain.resilience.signals import StopSignal
from pretrain.resilience.spikes import SpikeGuard
from pretrain.resilience.supervisor import Supervisor, announce_end
from pretrain.resilience.watchdog import Watchdog
from pretrain.restore import find_checkpoint, restore
from pretrain.run_data import open_data
from pretrain.run_lock import RunLock
from pretrain.runfolder import announce, check_own_folder, open_logs, record_start, save_config
from pretrain.same_data import as_on_main
from pretrain.sinks.open import open_sinks
from pretrain.start_up import StartUp
from pretrain.telemetry.telemetry import Telemetry
from pretrain.topology import Topology, topology_from_environment
from pretrain.trainer import Trainer

NodeCheck = Callable[[RunConfig, Topology], None]
"""looks at the connected nodes before the model is built; raises InputError for what must not be trained on"""


def pretrain(
    config: RunConfig,
    stop: StopSignal | None = None,
    check_nodes: NodeCheck | None = None,
    start_up: StartUp | None = None,
) -> Outcome:
    """Trains to the last step, going on from the newest whole checkpoint of the run folder.

    Args:
        stop: the signals that may end training early, after a checkpoint.
        check_nodes: what is asked of the nodes before the model is built.
        start_up: hears what the start is busy with.

    Returns:
        How it ended: finished, stopped, rolled back or gave up.
    """
    topology = topology_from_environment(config.parallel)
    check_own_folder(config)
    attempt = current_attempt(config.run_folder)
    with RunLock(config.run_folder, is_main=topology.is_main) as lock:
        lock.take(make=False)  # before anything of a run that is there is written, its record of this start included
        with recorded_failures(attempt, topology.rank):
            return _pretrain(
                with_rollbacks(config),
                topology,
                lock,
                attempt,
                stop or StopSignal(),
                check_nodes,
                start_up or StartUp(),
            )


def _pretrain(
    config: RunConfig,
    topology: Topology,
    lock: RunLock,
    attempt: Attempt,
    stop: StopSignal,
    check_nodes: NodeCheck | None,
    start_up: StartUp,
) -> Outcome:
    check_run(config, topology)
    start_up.doing("opening the data")
    kernels = run_kernels(config, topology)
    stream, validation = open_data(config, check_files=topology.local_rank == 0)
    marks = RecallMarks(stream, config, topology) if config.evaluation.ar_hits else None
    held_out = HeldOut(validation, config, topology, marks) if validation is not None else None
    lock.take()
    open_logs(config.run_folder, topology, library_log())
    settings = config.resilience
    start_up.doing(f"waiting for all {topology.world_size} processes")
    connect(topology, timeout_seconds=max(1800.0, 2 * settings.hang_seconds))  # the watchdog comes first
    watchdog = Watchdog(attempt.folder, topology.rank, settings.hang_seconds)
    try:
        if check_nodes is not None:
            start_up.doing("looking at the nodes")
            check_nodes(config, topology)
            watchdog.beat(0)
        config, stream = as_on_main(config, topology, stream, validation)
        start_up.doing("reading the newest checkpoint, to check every byte of it")
        run_id = join_remote(config, topology)
        reader = find_checkpoint(config, topology)
        if reader is not None and reader.step >= config.train.steps:
            announce_end(attempt, topology, config)
            return Outcome.FINISHED
        staging = open_staging(config, run_id)
        start_up.doing("building the model")
        recorder = Recorder()
        layers = build_model(config, topology, recorder, kernels)
        clips = config.optimizer.gradient_clipping > 0
        guard = SpikeGuard(settings.spike_window, settings.spike_deviations, settings.max_skips, clips)
        engine = build_engine(config, topology, layers, judge=guard.keeps)
        start_up.doing("filling the model and the optimizer")
        start = restore(config, topology, engine, stream, guard, reader)
        config, checkpoints = start.config, checkpoints_of(start.config.run_folder)
        values = values_without_credentials(dataclasses.asdict(config))
        supervisor = Supervisor(config, topology, attempt, stop, guard, watchdog, engine, stream)
        lineage = start.lineage
        if topology.is_main:
            save_config(config)
            facts = {"attempt": attempt.number, "topology": topology.describe()}
            lineage = record_start(config, start.step, lineage, run_id, supervisor.hosts, facts)
            remove_leftovers(checkpoints)
        announce(topology, f"{config.name}: {engine.describe()}")
        for line in opening_lines(config, stream, start.step):
            announce(topology, line)
        start_up.doing("opening where metrics go")
        sinks = open_sinks(config, values, topology, start.step, run_id)
        announce(topology, sinks_line(sinks))

        def tokens_at(step: int) -> int:
            return stream.tokens_before(config.batch.schedule.first_sample(step))

        flops_per_token = training_flops_per_token(config.model, config.data.sequence_length)
        trainer = Trainer(
            config=config,
            config_values=values,
            topology=topology,
            engine=engine,
            stream=stream,
            feed=BatchFeed(stream, config, topology),
            held_out=held_out,
            meter=StepMeter(topology.world_size, flops_per_token),
            telemetry=Telemetry(config, engine, recorder),
            writer=CheckpointWriter(checkpoints, topology, writer_settings(config, run_id, staging, tokens_at)),
            sinks=sinks,
            supervisor=supervisor,
            state=start.state,
            lineage=dataclasses.asdict(lineage),
            start_up=start_up,
        )
        start_up.doing("taking the first step")
        try:
            ending = trainer.fit(start.step)
        finally:
            for sink in sinks:
                sink.close()
        return trainer.supervisor.conclude(ending)
    finally:
        disconnect()
        watchdog.stop()
