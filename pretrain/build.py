"""The model of a run, ready for the engine: its list of layers and how they are split.

In: a RunConfig and a connected Topology. Out: layer definitions.
Always: plain layers for one tensor-parallel rank, megatron-core's for more; nothing is allocated yet.
"""

import torch

from model.layers import LayerDefinition, build_layers
from model.parallel import Sharding, Unsharded
from model.recorder import Recorder
from pretrain.config import RunConfig
from pretrain.engines.connection import tensor_group
from pretrain.topology import Topology, device_of


def build_model(config: RunConfig, topology: Topology, recorder: Recorder | None = None) -> list[LayerDefinition]:
    """The list of layers of ``config`` for this rank; ``recorder`` takes the layers' numbers."""
    return build_layers(
        config.model,
        _sharding(config, topology),
        recorder,
        seed=config.seed,
        dtype=torch.bfloat16 if config.train.precision == "bf16" else torch.float32,
        device=device_of(topology),
        activation_checkpointing=config.train.activation_checkpointing,
        sequence_length=config.data.sequence_length,
    )


def _sharding(config: RunConfig, topology: Topology) -> Sharding:
    packs = config.parallel.zero_stage < 3
    if topology.tensor_size == 1:
        return Unsharded(packs)
    from model.tensor_parallel import TensorParallel

    return TensorParallel(tensor_group(), topology.sequence_parallel, packs, config.parallel.row_pieces)
