"""Gradients and weights between the ranks with the same weights, by ZeRO stage.

In: a RunConfig and a Topology. Out: the exchanges of one rank with those along data and context. Always: for ZeRO 1
and 2 what pretrain/engines/zero does, bucket by bucket; for ZeRO 0 and 3, and with state on the host, what DeepSpeed
0.19 does with the settings that it gets.

With N parameters on this rank, d ranks with the same ones, n of which share state (all, or `parallel.partition_ranks`),
M micro-batches, c bytes per communicated gradient, e per weight:

    ZeRO   gradients                                             weights after the update
    0      all_reduce      c N                                   -
    1      reduce_scatter  c N'                                  all_gather e N'
    2      reduce_scatter  c N' M                                all_gather e N'
    3      reduce_scatter  c N" M                                all_gather e N"
    1, 2   + all_reduce    4 N'/n among those that keep the same part, where n < d; 4 V D / (t n) of a tied embedding

    N': each bucket padded to a multiple of 2 n    N": each parameter padded to a multiple of d; after the update the
    persistent ones, the others while they are used (pretrain/plan/zero3.py), M times

The reduce-scatter is an all-to-all of the same bytes where what travels is narrower than the sums, and on gloo
(pretrain/engines/zero/gradients.py). With ZeRO 1 and 2 DeepSpeed itself, which is in use when state lies on the host,
reduces to all ranks although each needs a part only, and ZeRO 1 in bf16 its flat fp32 gradients.
"""

import functools
from typing import Any

from model.config import ModelConfig
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, deepspeed_config, exchanges_itself
from pretrain.engines.zero.buckets import Bucket, bucket_elements, cut_into_buckets
from pretrain.optimizers.config import OptimizerConfig
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.exchange import Exchange, Operation
from pretrain.plan.layers import Stage, elements_per_rank, parameters_of, stage_parameters
from pretrain.plan.zero3 import Zero3Limits, Zero3Traffic, micro_batch_traffic
from pretrain.plan.zero3_overlap import Zero3Calls
from pretrain.topology import COPIES, Topology

BYTES = {"fp32": 4, "fp16": 2, "bfp16": 2, "bf16": 2}
"""DeepSpeed's names of types"""


def planned_buckets(config: RunConfig, topology: Topology) -> list[tuple[Bucket, int]]:
    """The buckets of ZeRO 1 and 2 on this rank in the order of the forward pass, each with its padded elements."""
    ranks = len(topology.sharing(config.parallel.partition_ranks))
    return list(
        _buckets(
            config.model,
            config.data.sequence_length,
            config.optimizer,
            config.parallel.bucket_megabytes,
            ranks,
            Stage.of(topology),
        )
    )


@functools.lru_cache(maxsize=256)
def _buckets(
    model: ModelConfig,
    sequence_length: int,
    optimizer: OptimizerConfig,
    megabytes: int | None,
    ranks: int,
    stage: Stage,
) -> tuple[tuple[Bucket, int], ...]:
    """Asked for by every figure of a plan."""
    parameters = [parameter.info for parameter in parameters_of(model, sequence_length, stage)]
    elements = [elements_per_rank(info, stage.tensor_size) for info in parameters]
    full = bucket_elements(megabytes, sum(elements), ranks)
    buckets = cut_into_buckets(parameters, elements, optimizer_kind(optimizer), full)
    return tuple((bucket, padded_size(bucket.elements, 2 * ranks)) for bucket in buckets)


def data_exchanges(config: RunConfig, topology: Topology) -> list[Exchange]:
    """The exchanges between ranks with the same weights, where DeepSpeed makes them."""
    stage, bf16 = config.parallel.zero_stage, config.train.precision == "bf16"
    ranks, steps = topology.ranks(*COPIES), accumulation_steps(config, topology)
    parameters = stage_parameters(config, topology)
    elements = [elements_per_rank(info, topology.tensor_size) for info in parameters]
    gradient, weight = gradient_bytes(config, topology), 2 if bf16 else 4

    def exchange(operation: Operation, purpose: str, size: int, calls: int = 1, overlaps: bool = False) -> Exchange:
        return Exchange("copies", ranks, operation, purpose, size, calls=calls, overlaps=overlaps)

    scalars = [exchange("all_reduce", "gradient norm", norm_bytes(config))]
    if stage == 3:
        limits = zero3_limits(config, topology)
        padded = [padded_size(count, len(ranks)) for count in elements]
        persistent = sum(size for size, count in zip(padded, elements, strict=True) if count <= limits.persistence)
        gathered = zero3_traffic(config, topology).gathered
        calls = zero3_calls(config, topology)
        return [
            exchange("reduce_scatter", "gradients", steps * gradient * sum(padded), steps * calls.gradients, True),
            exchange(
                "all_gather", "weights while they are used", steps * weight * gathered, steps * calls.gathers, True
            ),
            exchange("all_gather", "persistent weights after the update", weight * persistent),
            *scalars,
        ]
    flat = sum(size for _, size in flat_members(config, topology))
    reduced = flat if stage == 1 and bf16 else sum(elements)
    gradients = exchange("all_reduce", "gradients", gradient * reduced * (steps if stage == 2 else 1))
    if stage == 0:
        return [gradients]
    return [gradients, exchange("all_gather", "weights after the update", weight * flat), *scalars]


def norm_bytes(config: RunConfig) -> int:
    """The gradient norm's share of each parameter group, where ranks hold parts of the gradient, and the overflow."""
    stage = config.parallel.zero_stage
    if stage == 0 or (stage == 1 and config.train.precision == "bf16"):
        return 0
    return len(optimizer_kind(config.optimizer).groups) * (8 if stage == 3 else 4) + overflow_checks(config)


def overflow_checks(config: RunConfig) -> int:
    """Bytes of the flag by which ZeRO 2 in bf16 asks whether any rank has seen an overflow."""
    return int(config.parallel.zero_stage == 2 and config.train.precision == "bf16")


def gradient_bytes(config: RunConfig, topology: Topology) -> int:
    """Bytes of one communicated gradient."""
    chosen = deepspeed_config(config, topology).get("communication_data_type")
    return BYTES[chosen or config.train.precision]


def flat_members(config: RunConfig, topology: Topology) -> list[tuple[tuple[int, ...], int]]:
    """DeepSpeed's flat buffers: the places of their parameters in the stage's order, and their padded elements.

    One for each bucket, or for each of the optimizer's groups where DeepSpeed exchanges.
    """
    if exchanges_itself(config):
        return [(bucket.members, size) for bucket, size in planned_buckets(config, topology)]
    kind, parameters = optimizer_kind(config.optimizer), stage_parameters(config, topology)
    found = []
    for group in kind.groups:
        members = tuple(index for index, info in enumerate(parameters) if kind.group_of(info) is group)
        elements = sum(elements_per_rank(parameters[index], topology.tensor_size) for index in members)
        found.append((members, padded_size(elements, 2 * topology.copies)))
    return found


def padded_size(size: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-size // unit) * unit


def zero3_limits(config: RunConfig, topology: Topology) -> Zero3Limits:
    """DeepSpeed's settings of ZeRO-3, or its defaults."""
    settings: dict[str, Any] = deepspeed_config(config, topology)["zero_optimization"]
    return Zero3Limits(
        persistence=int(settings.get("stage3_param_persistence_threshold", 1e5)),
        reuse_distance=int(settings.get("stage3_max_reuse_distance", 1e9)),
        live=int(settings.get("stage3_max_live_parameters", 1e9)),
        prefetch=int(settings.get("stage3_prefetch_bucket_size", 5e7)),
    )


def zero3_traffic(config: RunConfig, topology: Topology) -> Zero3Traffic:
    """What ZeRO-3 gathers for one micro-batch on this rank."""
    sizes = {info.name: elements_per_rank(info, topology.tensor_size) for info in stage_parameters(config, topology)}
    limits, recomputes = zero3_limits(config, topology), config.train.activation_checkpointing == "full"
    return micro_batch_traffic(config.model, sizes, limits, topology.copies, recomputes)


def zero3_calls(config: RunConfig, topology: Topology) -> Zero3Calls:
    """In how many calls that is, and how many reduce the gradients."""
    sizes = [elements_per_rank(info, topology.tensor_size) for info in stage_parameters(config, topology)]
    held = sum(sizes)
    again = zero3_traffic(config, topology).gathered - sum(padded_size(size, topology.copies) for size in sizes)
    group = max(1, zero3_limits(config, topology).prefetch)
    bucket = int(deepspeed_config(config, topology)["zero_optimization"]["reduce_bucket_size"])
    return Zero3Calls(-(-held // group), -(-max(0, again) // group), -(-held // bucket))
