"""DeepSpeed's engine with our exchange inside, for ZeRO 1 and 2.

In: a RunConfig, a Topology, the module of this rank and the optimizer of its parameters. Out: DeepSpeed's engine.
Always: buckets are the same on all ranks that exchange with each other; layers wait for the weights that they read.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from model.layers import LanguageModel
from model.parallel import info_of
from pretrain.config import RunConfig
from pretrain.engines import compat
from pretrain.engines.connection import ModelParallelUnit, PartitionGroups, own_tensor_group
from pretrain.engines.deepspeed_config import deepspeed_config
from pretrain.engines.stages import StagedModel
from pretrain.engines.zero.buckets import bucket_elements, cut_into_buckets
from pretrain.engines.zero.gradients import TRAVELS
from pretrain.engines.zero.optimizer import BucketedZero, ExchangeSettings, split_into_buckets
from pretrain.optimizers.gate import Gate
from pretrain.optimizers.registry import optimizer_kind
from pretrain.topology import Topology


def bucketed_engine(
    config: RunConfig,
    topology: Topology,
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    groups: PartitionGroups,
    gate: Gate,
) -> Any:
    """The engine; its ``optimizer`` is a BucketedZero around ``optimizer``, whose groups become buckets.

    Args:
        parameters: of ``module``, in the order of the forward pass.
        groups: the ranks that share this rank's partitions, and those that keep the same ones.
    """
    infos, elements = [info_of(p) for p in parameters], [p.numel() for p in parameters]
    full = bucket_elements(config.parallel.bucket_megabytes, sum(elements), groups.sharing.size())
    buckets = cut_into_buckets(infos, elements, optimizer_kind(config.optimizer), full)
    split_into_buckets(optimizer, [[parameters[index] for index in bucket.members] for bucket in buckets])
    settings = ExchangeSettings(
        keeps_whole_sums=config.parallel.zero_stage == 1,
        travels=TRAVELS[config.parallel.gradient_exchange],
        overlap=config.parallel.overlap,
        partition_group=groups.sharing,
        replica_group=groups.alike,
        replicas=topology.copies,
        tensor_rank=topology.tensor_rank,
        tensor_group=own_tensor_group(topology) if topology.tensor_size > 1 else None,
        clipping=config.optimizer.gradient_clipping,
    )

    def wrap(engine: Any, inner: torch.optim.Optimizer) -> BucketedZero:
        return BucketedZero(inner, compat.parameter_names(engine), settings, gate, compat.tied_weights(module))

    unit = None if isinstance(module, StagedModel) else ModelParallelUnit()
    engine = compat.wrapped_engine(module, optimizer, deepspeed_config(config, topology), unit, wrap)
    engine.optimizer.weights.wait_before(_layers(module), rest=module)
    return engine


def _layers(module: nn.Module) -> list[nn.Module]:
    """The layers of the list that are called one after the other."""
    if isinstance(module, StagedModel):
        return compat.pipeline_layers(module)
    assert isinstance(module, LanguageModel)
    return list(module.layers.values())
