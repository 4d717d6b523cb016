"""The model of a run, ready for the engine: its list of layers and how they are split.

In: a RunConfig and a connected Topology. Out: the kernels, layer definitions.
Always: plain layers for one tensor-parallel rank, megatron-core's for more; nothing is allocated yet.
"""

from model.context.base import ALONE, Context
from model.context.gathering import Gathering
from model.context.over_heads import OverHeads
from model.kernels.choice import choose_kernels
from model.kernels.kept import Kernels
from model.kernels.machine import Machine
from model.layers import LayerDefinition, build_layers, case_of
from model.parallel import Sharding, Unsharded
from model.recorder import Recorder
from pretrain.config import RunConfig
from pretrain.engines.connection import context_group, tensor_group
from pretrain.topology import Topology, device_of


def run_kernels(config: RunConfig, topology: Topology) -> Kernels:
    """What the layers of ``config`` call on this rank's device.

    Raises:
        InputError: what the user asks for cannot be used here.
    """
    machine = Machine.here(device_of(topology))
    data = config.data
    case = case_of(config.model, machine, config.train.dtype, data.sequence_length, data.document_attention)
    return choose_kernels(case, config.train.attention_form, config.train.rowwise_kernels)


def build_model(
    config: RunConfig, topology: Topology, recorder: Recorder | None = None, kernels: Kernels | None = None
) -> list[LayerDefinition]:
    """The list of layers of ``config`` for this rank; ``recorder`` takes the layers' numbers.

    ``kernels`` are those of ``run_kernels``, for who has asked already.
    """
    return build_layers(
        config.model,
        _sharding(config, topology),
        recorder,
        seed=config.seed,
        dtype=config.train.dtype,
        device=device_of(topology),
        activation_checkpointing=config.train.activation_checkpointing,
        sequence_length=config.data.sequence_length,
        kernels=kernels or run_kernels(config, topology),
        context=_context(config, topology),
    )


def _context(config: RunConfig, topology: Topology) -> Context:
    if topology.context_size == 1:
        return ALONE
    if config.parallel.context_exchange == "heads":
        return OverHeads(context_group())
    return Gathering(context_group(), config.parallel.context_pieces)


def _sharding(config: RunConfig, topology: Topology) -> Sharding:
    packs = config.parallel.zero_stage < 3
    if topology.tensor_size == 1:
        return Unsharded(packs)
    from model.tensor_parallel import TensorParallel

    return TensorParallel(tensor_group(), topology.sequence_parallel, packs, config.parallel.row_pieces)
