"""The composition root: every part of a run, built in the order in which data flows.

In: a RunConfig. Out: a finished run in its folder. Always: whatever is wrong with the input is found before the
model is built, and before any process group starts where that is possible.
"""

import dataclasses

from data.stream import open_stream, open_validation
from model.counts import training_flops_per_token
from model.layers import build_layers
from pretrain.checkpoint_writer import CheckpointWriter, remove_leftovers
from pretrain.checks import check_run
from pretrain.config import RunConfig
from pretrain.data_checks import check_data
from pretrain.engine import build_engine
from pretrain.evaluate import HeldOut
from pretrain.feed import BatchFeed
from pretrain.metrics import StepMeter
from pretrain.resume import check_same_model, load, newest_step, newest_whole
from pretrain.runfolder import announce, open_logs, open_sinks, save_config
from pretrain.sharding import build_sharding, model_dtype
from pretrain.topology import connect, device_of, disconnect, topology_from_environment
from pretrain.trainer import Trainer, TrainerState, restore_random_state, seed_everything


def pretrain(config: RunConfig) -> None:
    """Trains to the last step, going on from the newest whole checkpoint of the run folder."""
    topology = topology_from_environment(config.parallel)
    check_run(config, topology)
    stream = open_stream(config.data, config.seed, check_files=topology.local_rank == 0)
    validation = open_validation(config.data, check_files=topology.local_rank == 0)
    check_data(config, stream, validation)
    held_out = HeldOut(validation, config, topology) if validation is not None else None
    checkpoints = config.run_folder / "checkpoints"
    if newest_step(checkpoints) >= config.train.steps:
        announce(topology, f"{config.run_folder} is finished: {config.train.steps} steps; raise train.steps to go on")
        return
    open_logs(config.run_folder, topology)
    connect(topology)
    try:
        seed_everything(config.seed)
        sharding = build_sharding(topology)
        layers = build_layers(
            config.model,
            sharding,
            seed=config.seed,
            dtype=model_dtype(config),
            device=device_of(topology),
            activation_checkpointing=config.train.activation_checkpointing,
            sequence_length=config.data.sequence_length,
        )
        engine = build_engine(config, topology, layers, sharding, judge=_keep_every_step)
        reader = newest_whole(checkpoints, topology)
        state, start = TrainerState(), 0
        if reader is not None:
            check_same_model(reader, config)
            stream.check_state(reader.manifest.state["data"])
            load(engine, reader)
            restore_random_state(reader.manifest.state["random"])
            state, start = TrainerState(**reader.manifest.state["trainer"]), reader.step
        values = dataclasses.asdict(config)
        if topology.is_main:
            save_config(config)
            remove_leftovers(checkpoints)
        announce(topology, f"{config.name}: {engine.describe()}")
        announce(topology, f"{'resuming at' if start else 'starting at'} step {start} of {config.train.steps}")
        sinks = open_sinks(config, values, topology, start)
        flops_per_token = training_flops_per_token(config.model, config.data.sequence_length)
        trainer = Trainer(
            config=config,
            config_values=values,
            topology=topology,
            engine=engine,
            stream=stream,
            feed=BatchFeed(stream, config, topology),
            held_out=held_out,
            meter=StepMeter(config, topology.world_size, flops_per_token),
            writer=CheckpointWriter(
                checkpoints, topology, keep=config.checkpoint.keep, asynchronous=config.checkpoint.asynchronous
            ),
            sinks=sinks,
            state=state,
        )
        trainer.fit(start)
        for sink in sinks:
            sink.close()
        announce(topology, f"finished: {config.run_folder}")
    finally:
        disconnect()


def _keep_every_step(loss: float, grad_norm: float) -> bool:
    return True
