"""How this rank's layers are split, and in which arithmetic they compute.

In: a connected Topology and a RunConfig. Out: the Sharding that model/layers.py builds with, and a dtype.
"""

import torch

from model.parallel import Sharding, Unsharded
from pretrain.config import RunConfig
from pretrain.topology import Topology, tensor_group


def build_sharding(topology: Topology) -> Sharding:
    """Plain layers for one tensor-parallel rank, megatron-core's for more."""
    if topology.tensor_size == 1:
        return Unsharded()
    from model.tensor_parallel import TensorParallel

    return TensorParallel(tensor_group(), sequence_parallel=topology.sequence_parallel)


def model_dtype(config: RunConfig) -> torch.dtype:
    """The dtype of parameters and activations."""
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32
