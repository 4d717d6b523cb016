"""What one rank holds of the model, without building its part.

In: a RunConfig and a Topology. Out: the layers of the rank's stage and their parameters. Always: names and shapes come
from the model's own layer code, constructed on the meta device; the built shards have these sizes.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from model.config import ModelConfig
from model.layers import LayerDefinition, build_layers
from model.packed import linear
from model.parallel import ParameterInfo, Product, Sharding, Unsharded, describe, info_of
from pretrain.config import RunConfig
from pretrain.stage_split import split_into_stages
from pretrain.topology import Topology


class PlannedSharding(Unsharded):
    """Notes how a tensor-parallel group splits each parameter, without a group.

    Its modules keep their whole shapes: they are there to be counted, not to be run.
    """

    def __init__(self, size: int, sequence_parallel: bool) -> None:
        self.size = size
        self.sequence_parallel = sequence_parallel

    def column_linear(self, in_features: int, out_features: int) -> nn.Module:
        return _split(super().column_linear(in_features, out_features), dim=0)

    def row_linear(self, in_features: int, out_features: int, product: Product = linear) -> nn.Module:
        return _split(super().row_linear(in_features, out_features, product), dim=1)

    def vocab_embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return _split(super().vocab_embedding(vocab_size, hidden_size), dim=0)


def planned_layers(config: RunConfig, sharding: Sharding) -> list[LayerDefinition]:
    """The whole list of layers on the meta device: nothing is allocated, whatever the size."""
    return build_layers(
        config.model,
        sharding,
        seed=config.seed,
        device="meta",
        activation_checkpointing=config.train.activation_checkpointing,
        sequence_length=config.data.sequence_length,
    )


def stage_layers(
    config: RunConfig, topology: Topology, layers: Sequence[LayerDefinition] | None = None
) -> list[LayerDefinition]:
    """The layers of the rank's stage, from ``layers`` or from ``planned_layers``."""
    if layers is None:
        layers = planned_layers(config, PlannedSharding(topology.tensor_size, topology.sequence_parallel))
    cuts = _cuts(config.model, config.data.sequence_length, topology.pipeline_size)
    return list(layers[cuts[topology.stage] : cuts[topology.stage + 1]])


@dataclass(frozen=True)
class StageParameter:
    """A parameter of a stage, and who reads it."""

    info: ParameterInfo
    layers: tuple[int, ...]
    """places in the stage's list of layers, ascending; of a tied weight several"""


def stage_parameters(config: RunConfig, topology: Topology) -> list[ParameterInfo]:
    """The parameters of the rank's stage in the order of their layers; a tied weight once, or as this stage's copy."""
    return [parameter.info for parameter in stage_readers(config, topology)]


def stage_readers(config: RunConfig, topology: Topology) -> list[StageParameter]:
    """The same, each with the layers that read it."""
    return list(parameters_of(config.model, config.data.sequence_length, Stage.of(topology)))


@dataclass(frozen=True)
class Stage:
    """What of a topology decides which parameters a rank has."""

    tensor_size: int
    sequence_parallel: bool
    stages: int
    stage: int

    @classmethod
    def of(cls, topology: Topology) -> Self:
        """The rank's stage."""
        return cls(topology.tensor_size, topology.sequence_parallel, topology.pipeline_size, topology.stage)


@functools.lru_cache(maxsize=64)
def parameters_of(model: ModelConfig, sequence_length: int, stage: Stage) -> tuple[StageParameter, ...]:
    """As ``stage_readers``, known once: every figure of a plan asks for them.

    One block is built and stands for all, which differ by their number alone.
    """
    sharding = PlannedSharding(stage.tensor_size, stage.sequence_parallel)
    layers = build_layers(model, sharding, seed=0, device="meta", sequence_length=sequence_length)
    cuts = _cuts(model, sequence_length, stage.stages)
    found: dict[str, StageParameter] = {}
    block: list[ParameterInfo] = []
    for number, layer in enumerate(layers[cuts[stage.stage] : cuts[stage.stage + 1]]):
        if not layer.name.startswith("blocks."):
            infos = _infos(layer)
        else:
            block = block or [replace(info, name=info.name.removeprefix(layer.name)) for info in _infos(layer)]
            infos = [replace(info, name=layer.name + info.name) for info in block]
        for info in infos:
            first = found.get(info.name, StageParameter(info, ()))
            found[info.name] = replace(first, layers=(*first.layers, number))
    return tuple(found.values())


def elements_per_rank(info: ParameterInfo, tensor_size: int) -> int:
    """Elements of one parameter on one tensor-parallel rank."""
    whole = math.prod(info.full_shape)
    return whole if info.shard_dim is None else whole // tensor_size


def _infos(layer: LayerDefinition) -> list[ParameterInfo]:
    return [info_of(parameter) for parameter in layer.build().parameters()]


@functools.lru_cache(maxsize=16)
def _cuts(model: ModelConfig, sequence_length: int, stages: int) -> list[int]:
    """Where all ranks cut, asked for by each of them many times: with hundreds of stages it takes a while."""
    layers = build_layers(model, Unsharded(), seed=0, device="meta", sequence_length=sequence_length)
    return split_into_stages(layers, stages)


def _split(module: nn.Module, dim: int) -> nn.Module:
    weight = module.get_parameter("weight")
    describe(weight, replace(info_of(weight), shard_dim=dim))
    return module
