"""Every shard of a model, built without memory and without other processes.

In: a RunConfig and a world size. Out: the parameters of each (stage, tensor-parallel rank) as the training would build
them, and what does not fit together. Always: the layers are the training's own, megatron-core's included, on the meta
device; the process groups are torch's fake ones, which know their ranks and exchange nothing.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist

from model.parallel import ParameterInfo, Sharding, Unsharded, info_of
from pretrain.config import RunConfig
from pretrain.plan.layers import planned_layers, stage_layers
from pretrain.topology import Topology, plan_topology
from pretrain.torch_compat import fake_store


@dataclass(frozen=True)
class BuiltParameter:
    """One parameter as one rank holds it."""

    info: ParameterInfo
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BuiltStage:
    """What the ranks of one stage with the same tensor-parallel rank build."""

    stage: int
    tensor_rank: int
    layers: tuple[str, ...]
    parameters: dict[str, BuiltParameter]
    """by logical name; a tied weight once"""

    @property
    def elements(self) -> int:
        """Elements of all parameters."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters.values())


def build_stages(config: RunConfig, world_size: int) -> list[BuiltStage]:
    """Builds each distinct (stage, tensor-parallel rank) once.

    Raises:
        InputError: fewer blocks than stages, or a world that does not divide.
    """
    topology = plan_topology(config.parallel, world_size)
    return [_build(config, rank) for rank in topology.firsts("tensor", "pipeline")]


def shape_problems(config: RunConfig, stages: list[BuiltStage]) -> Iterator[str]:
    """Parameters whose shards do not make up the whole parameter of the plain model, in one line each."""
    whole = {
        info_of(parameter).name: tuple(parameter.shape)
        for layer in planned_layers(config, Unsharded())
        for parameter in layer.build().parameters()
    }
    shards: dict[str, list[tuple[int, BuiltParameter]]] = {}
    for built in stages:
        for name, parameter in built.parameters.items():
            shards.setdefault(name, []).append((built.stage, parameter))
    for name in sorted(whole.keys() | shards.keys()):
        if name not in shards or name not in whole:
            yield f"{name} is on {'no stage' if name in whole else 'a stage, but not in the model'}"
            continue
        homes = {stage for stage, _ in shards[name]}
        tied = name == "embedding.weight" and config.model.tie_embeddings
        if len(homes) > 1 and not tied:
            yield f"{name} is on stages {sorted(homes)}"
        for stage in sorted(homes):
            found = [parameter for home, parameter in shards[name] if home == stage]
            if _put_together(found) != whole[name]:
                yield f"{name} on stage {stage}: shards {[part.shape for part in found]} do not make up {whole[name]}"


def _build(config: RunConfig, topology: Topology) -> BuiltStage:
    parameters: dict[str, BuiltParameter] = {}
    with _fake_sharding(topology) as sharding:
        layers = stage_layers(config, topology, planned_layers(config, sharding))
        for layer in layers:
            for parameter in layer.build().parameters():
                info = info_of(parameter)
                parameters.setdefault(info.name, BuiltParameter(info, tuple(parameter.shape)))
    return BuiltStage(topology.stage, topology.tensor_rank, tuple(layer.name for layer in layers), parameters)


@contextmanager
def _fake_sharding(topology: Topology) -> Iterator[Sharding]:
    """The Sharding with which the training builds on ``topology.rank``, in groups that exchange nothing."""
    if topology.tensor_size == 1:
        yield Unsharded()
        return
    with warnings.catch_warnings():  # megatron-core tells which optional packages it does not find
        warnings.simplefilter("ignore")
        from model.tensor_parallel import TensorParallel
    dist.init_process_group("fake", store=fake_store(), rank=topology.rank, world_size=topology.world_size)
    try:
        group = dist.new_group(list(topology.ranks("tensor")))
        yield TensorParallel(group, topology.sequence_parallel)
    finally:
        dist.destroy_process_group()


def _put_together(parts: list[BuiltParameter]) -> tuple[int, ...] | None:
    """The shape of the parameter that the tensor-parallel ranks' parts make up; None: they do not fit."""
    dim = parts[0].info.shard_dim
    if dim is None:
        return parts[0].shape if len({part.shape for part in parts}) == 1 else None
    rest = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
    if len(rest) > 1 or any(part.info.shard_dim != dim for part in parts):
        return None
    return (*parts[0].shape[:dim], sum(part.shape[dim] for part in parts), *parts[0].shape[dim + 1 :])
