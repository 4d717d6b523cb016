"""Gradients and weights between data-parallel ranks, by ZeRO stage, as DeepSpeed 0.19 moves them.

In: a RunConfig and a Topology. Out: the exchanges of one rank's data-parallel group. Always: the settings that
DeepSpeed gets, its padding included.

With N parameters on this rank, d ranks, M micro-batches, c bytes per communicated gradient, e per weight:

    ZeRO   gradients                       weights after the update
    0      all_reduce      c N             -
    1      all_reduce      c N             all_gather e N'      N': each parameter group padded to a multiple of 2 d
    2      all_reduce      c N M           all_gather e N'
    3      reduce_scatter  c N" M          all_gather e N"      N": each parameter padded to a multiple of d; after the
                                                                update the persistent ones, the others while they are
                                                                used (pretrain/plan/zero3.py), M times

In bf16, ZeRO 1 reduces its flat fp32 gradients with their padding, N'. ZeRO 1 and 2 reduce to all ranks although each
needs a part only: DeepSpeed's default (`use_multi_rank_bucket_allreduce`) trades bytes for fewer calls.
"""

from collections.abc import Iterable
from typing import Any

from model.parallel import ParameterInfo
from pretrain.config import RunConfig
from pretrain.engines.deepspeed_config import accumulation_steps, deepspeed_config
from pretrain.optimizers.base import Group
from pretrain.optimizers.registry import optimizer_kind
from pretrain.plan.exchange import Exchange, Operation
from pretrain.plan.layers import elements_per_rank, stage_parameters
from pretrain.plan.zero3 import Zero3Limits, Zero3Traffic, micro_batch_traffic
from pretrain.topology import Topology

BYTES = {"fp32": 4, "fp16": 2, "bfp16": 2, "bf16": 2}
"""DeepSpeed's names of types"""


def data_exchanges(config: RunConfig, topology: Topology) -> list[Exchange]:
    """The exchanges within this rank's data-parallel group."""
    stage, bf16 = config.parallel.zero_stage, config.train.precision == "bf16"
    ranks, steps = topology.ranks("data"), accumulation_steps(config, topology)
    parameters = stage_parameters(config, topology)
    elements = [elements_per_rank(info, topology.tensor_size) for info in parameters]
    gradient, weight = gradient_bytes(config, topology), 2 if bf16 else 4

    def exchange(operation: Operation, purpose: str, size: int) -> Exchange:
        return Exchange("data", ranks, operation, purpose, size)

    scalars = [exchange("all_reduce", "gradient norm", norm_bytes(config))]
    if stage == 3:
        limits = zero3_limits(config, topology)
        padded = [padded_size(count, len(ranks)) for count in elements]
        persistent = sum(size for size, count in zip(padded, elements, strict=True) if count <= limits.persistence)
        gathered = zero3_traffic(config, topology).gathered
        return [
            exchange("reduce_scatter", "gradients", steps * gradient * sum(padded)),
            exchange("all_gather", "weights while they are used", steps * weight * gathered),
            exchange("all_gather", "persistent weights after the update", weight * persistent),
            *scalars,
        ]
    flat = sum(flat_sizes(config, parameters, topology).values())
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


def flat_sizes(config: RunConfig, parameters: Iterable[ParameterInfo], topology: Topology) -> dict[Group, int]:
    """Elements of DeepSpeed's flat buffers, one for each of the optimizer's groups, padded."""
    kind = optimizer_kind(config.optimizer)
    sizes = dict.fromkeys(kind.groups, 0)
    for info in parameters:
        sizes[kind.group_of(info)] += elements_per_rank(info, topology.tensor_size)
    return {group: padded_size(size, 2 * topology.data_size) for group, size in sizes.items()}


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
    return micro_batch_traffic(config.model, sizes, limits, topology.data_size, recomputes)
