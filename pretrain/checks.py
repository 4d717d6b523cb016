"""What two sections of a config must agree on, refused by name with the nearest valid values.

In: a RunConfig and a Topology. Out: nothing, or an InputError. Always: no process group, no model, no data.
"""

import math
from typing import Any

from common.errors import InputError
from model.checks import check_split, nearest_multiples, nearest_split
from model.kinds.registry import kind_of
from pretrain.checkpoint.layout import checkpoints_of, list_steps, step_of
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import deepspeed_config, exchanges_itself
from pretrain.evaluation_command import check_command
from pretrain.optimizers.registry import optimizer_kind
from pretrain.schedule import check_schedule
from pretrain.topology import Topology


def check_run(config: RunConfig, topology: Topology) -> None:
    """Raises InputError for a combination that cannot work."""
    check_run_name(config)
    check_split(
        config.model,
        tensor_size=topology.tensor_size,
        sequence_parallel=topology.sequence_parallel,
        sequence_length=config.data.sequence_length,
    )
    _check_lengths(config, topology)
    _check_context(config, topology)
    _check_zero(config)
    _check_exchange(config, topology)
    _check_pipeline(config)
    check_batch(config, topology, max(map(step_of, list_steps(checkpoints_of(config.run_folder))), default=0))
    check_schedule(config.schedule, config.train.steps)
    _check_offload(config, deepspeed_config(config, topology))
    if config.evaluation.command is not None:
        check_command(config.evaluation.command, config.run_folder)


def check_run_name(config: RunConfig) -> None:
    """Refuses a name that leads to another folder than one below runs/, or that commands take for a flag.

    Not where a config is built: runs of earlier versions, which had such names, can still be read.
    """
    name = config.name
    if config.run_dir is None and ("/" in name or name in (".", "..")):
        raise InputError(f"name: {name!r} is a path; give the run a plain name, and its folder with run_dir")
    if name.startswith("-"):
        raise InputError(f"name: {name!r} begins like a flag; begin with a letter or a digit")


def _check_lengths(config: RunConfig, topology: Topology) -> None:
    """All sequence lengths, of the first stage and of later ones, are split alike."""
    over, unit = [], 1
    if topology.context_size > 1:
        over, unit = [f"parallel.context {topology.context_size} (two chunks each)"], 2 * topology.context_size
    if topology.sequence_parallel:
        over.append(f"parallel.tensor {topology.tensor_size} (parallel.sequence)")
        unit = math.lcm(unit, len(topology.ranks("tensor", "context")))
    stages = enumerate(config.data.stages)
    later = [(f"data.stages[{number}].sequence_length", stage.sequence_length) for number, stage in stages]
    for name, length in [("data.sequence_length", config.data.sequence_length), *later]:
        if length is not None and length % unit:
            raise InputError(
                f"{name}: {length} cannot be split over {' and '.join(over)}; nearest: "
                f"{nearest_multiples(length, unit)}"
            )


def _check_context(config: RunConfig, topology: Topology) -> None:
    """Who takes all tokens of some heads needs as many heads as ranks."""
    if topology.context_size == 1 or config.parallel.context_exchange != "heads":
        return
    groups = kind_of(config.model).key_value_heads(config.model) // topology.tensor_size
    if groups % topology.context_size:
        raise InputError(
            f"parallel.context_exchange: heads gives each of parallel.context {topology.context_size} ranks as many "
            f"of the {groups} key/value heads of a tensor-parallel rank; set gather, or parallel.context "
            f"{nearest_split({'heads': groups}, topology.context_size)}"
        )


def _check_zero(config: RunConfig) -> None:
    stage, optimizer = config.parallel.zero_stage, optimizer_kind(config.optimizer)
    if stage not in optimizer.zero_stages:
        raise InputError(
            f"parallel.zero_stage: optimizer.kind {optimizer.name} works with "
            f"{', '.join(map(str, sorted(optimizer.zero_stages)))}, not {stage}"
        )
    if config.parallel.pipeline > 1 and stage > 1:
        raise InputError(
            f"parallel.zero_stage: a pipeline works with 0 or 1, not {stage}; or set parallel.pipeline to 1"
        )
    if stage == 0 and config.train.precision == "bf16":
        raise InputError(
            "parallel.zero_stage: 0 cannot accumulate bf16 gradients in fp32; 1 can, also on a single process"
        )


def _check_exchange(config: RunConfig, topology: Topology) -> None:
    """Settings of the exchange of ZeRO 1 and 2."""
    parallel = config.parallel
    for name in ("partition_ranks", "bucket_megabytes"):
        if getattr(parallel, name) is not None and not exchanges_itself(config):
            raise InputError(
                f"parallel.{name}: works with parallel.zero_stage 1 and 2 and state on the device; leave it out"
            )
    ranks = parallel.partition_ranks
    if ranks is not None and topology.copies % ranks:
        raise InputError(
            f"parallel.partition_ranks: must divide the {topology.copies} ranks with the same weights (along data and "
            f"context), is {ranks}; nearest: {nearest_split({'data': topology.copies}, ranks)}"
        )


def _check_offload(config: RunConfig, settings: dict[str, Any]) -> None:
    optimizer, offload = optimizer_kind(config.optimizer), settings["zero_optimization"].get("offload_optimizer")
    if not optimizer.offloads and offload and offload.get("device", "none") != "none":
        raise InputError(
            f"deepspeed.zero_optimization.offload_optimizer: optimizer.kind {optimizer.name} keeps its state on the "
            "device; leave it out"
        )


def _check_pipeline(config: RunConfig) -> None:
    stages, blocks = config.parallel.pipeline, config.model.num_layers
    if stages > blocks:
        raise InputError(
            f"parallel.pipeline: every stage needs a block; {blocks} blocks (model.num_layers) fill at most "
            f"{blocks} stages, not {stages}"
        )
    offloaded = config.parallel.zero_stage > 0 and not exchanges_itself(config)
    if stages > 1 and config.parallel.pipeline_schedule == "zero_bubble" and offloaded:
        raise InputError(
            "parallel.pipeline_schedule: zero_bubble needs the optimizer's state on the device; set 1f1b, or leave "
            "deepspeed.zero_optimization.offload_optimizer out"
        )


def check_batch(config: RunConfig, topology: Topology, taken: int) -> None:
    """Refuses sizes of the steps still to come that do not divide; the ``taken`` ones may lie on other ranks."""
    micro = config.batch.micro_size
    unit = micro * topology.data_size
    ramp_steps = sum(entry.steps for entry in config.batch.ramp)
    sizes = [("batch.ramp", entry.global_size) for entry in config.batch.schedule.stretches(taken, ramp_steps)]
    for name, size in [*sizes, ("batch.global_size", config.batch.global_size)]:
        if size % unit:
            raise InputError(
                f"{name}: must be a multiple of batch.micro_size x data-parallel size = {micro} x "
                f"{topology.data_size} = {unit}, is {size}; nearest: {nearest_multiples(size, unit)}"
            )
